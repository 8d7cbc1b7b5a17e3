"""The base model: read by transformers, with our linears and attention put in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loradex.adapters.keys import canonical
from loradex.adapters.options import EXPERTS
from loradex.core.model import LinearShape
from loradex.engine.config import EngineConfig
from loradex.engine.local.attention import NAME, PagedAttention
from loradex.engine.local.batch import Step
from loradex.engine.local.checkpoint import read_model
from loradex.engine.local.experts import Experts, proven
from loradex.engine.local.group import neighbours
from loradex.engine.local.linear import LoraLinear
from loradex.engine.local.packed import PackedEmbedding, PackedLinear, can_pack, multiplies_bfloat16
from loradex.engine.local.panel_linear import PanelLinear
from loradex.engine.local.panels import Scratch
from loradex.engine.local.quantized import QuantizedLinear, quantized_linears
from loradex.engine.local.seat import Seat, watched
from loradex.errors import ConfigInvalid

PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.jinja", "*.model"]


@dataclass(slots=True)
class BaseModel:
    """A loaded model and what the engine needs to run it.

    `linears` holds, by module path, every linear that adapters may target, and `seats` every other module that they may
    change; among these are `embedding` and `head`, which have one weight if they are `tied`. `experts` are the modules
    of routed experts whose weights may have pairs. `groups` are the linears in the order in which the model calls them,
    those together that it calls one after another with one input. `reference` are the logits `[rows, vocabulary]` that
    plain transformers gives for the tokens `probe`, against which the engine checks itself. `quantization` is how
    linears are kept.
    """

    module: PreTrainedModel
    config: PreTrainedConfig
    folder: Path
    step: Step
    attention: PagedAttention
    linears: dict[str, LoraLinear]
    probe: list[int]
    reference: torch.Tensor
    dtype: torch.dtype
    device: torch.device
    vocab_size: int
    seats: dict[str, Seat]
    experts: dict[str, Experts]
    groups: list[list[str]]
    embedding: str
    head: str
    tied: bool
    quantization: str

    def place(self, module: str) -> LoraLinear | Seat:
        """Return where adapters change a module."""
        return self.linears.get(module) or self.seats[module]

    def at(self, module: str) -> nn.Module:
        """Return a module of the base itself."""
        linear = self.linears.get(module)
        return self.seats[module].module if linear is None else linear.base

    def stacks(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each stack of experts' weights, `[experts, out, in]`, by its path."""
        return {
            f"{name}.{parameter}": tuple(experts.module.get_parameter(parameter).shape)
            for name, experts in self.experts.items()
            for parameter in EXPERTS
        }

    def has(self, parameter: str) -> bool:
        """Whether adapters may bring this parameter anew."""
        module = parameter.rpartition(".")[0]
        return module in self.linears or module in self.seats

    @property
    def head_changes(self) -> bool:
        """Whether some adapter changes the output head."""
        head = self.seats.get(self.head)
        return head is not None and head.busy

    @contextmanager
    def observed(self) -> Iterator[list[torch.Tensor]]:
        """Yield a list into which each forward pass puts its last hidden states, `[rows, hidden size]`."""
        seen: list[torch.Tensor] = []
        hook = self.module.base_model.register_forward_hook(lambda _, __, output: seen.append(output[0][0]))
        try:
            yield seen
        finally:
            hook.remove()

    def shapes(self) -> dict[str, LinearShape]:
        """Return the shape of each linear that adapters may target."""
        return {name: _shape(linear.base) for name, linear in self.linears.items()}


def find(model: str, revision: str | None) -> Path:
    """Return the local folder of a model, downloading it from the hub if `model` is no folder.

    Raises:
        ConfigInvalid: neither a folder with a config.json nor a reachable repository.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigInvalid(
                f"{folder} holds no config.json", hint="Give the folder of a model in the Hugging Face format"
            )
        return folder
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=PATTERNS))
    except HFValidationError:  # no name that a repository could have: a path was meant
        raise ConfigInvalid(
            f"The model {model!r} is neither a folder nor a repository: there is nothing at {folder.resolve()}",
            hint="Check the path",
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigInvalid(
            f"The model {model!r} is neither a folder nor a repository that can be read: {error}",
            hint="Check the spelling of the path or id, and the network",
        ) from error


def load(config: EngineConfig, folder: Path, device: torch.device) -> BaseModel:
    """Load the base model and put our parts in.

    Raises:
        ConfigInvalid: it cannot be read, its architecture is not one that can be served, or the device cannot compute
            with weights that are quantized like this.
    """
    module, quantization = read_model(config, folder, device)
    vocab_size = module.get_input_embeddings().num_embeddings
    probe = [(7919 * i + 17) % vocab_size for i in range(24)]
    with torch.inference_mode():
        reference = _forward(module, probe, device)
    step = Step()
    tied = _is_tied(module)
    _pack(module, tied)
    linears = swap_linears(module, config.max_loras, step)
    attention = PagedAttention(step)
    attention.attach(module)
    module.set_attn_implementation(NAME)
    with proven(module, len(probe)) as experts:
        seats, groups = _observe(module, probe, device, linears, step)
    named = {found: canonical(name) for name, found in module.named_modules()}
    return BaseModel(
        module=module,
        config=module.config,
        folder=folder,
        step=step,
        attention=attention,
        linears=linears,
        probe=probe,
        reference=reference,
        dtype=module.dtype,
        device=device,
        vocab_size=vocab_size,
        seats=seats,
        groups=groups,
        experts={named[each]: Experts(each, step) for each, calls in experts.items() if calls == [True]},
        embedding=named[module.get_input_embeddings()],
        head=named[module.get_output_embeddings()],
        tied=tied,
        quantization=quantization,
    )


def _forward(module: nn.Module, tokens: list[int], device: torch.device) -> torch.Tensor:
    ids = torch.tensor([tokens], device=device)
    positions = torch.arange(len(tokens), device=device).unsqueeze(0)
    return module(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()


def _is_tied(module: PreTrainedModel) -> bool:
    head = module.get_output_embeddings()
    return head is not None and module.get_input_embeddings().weight is head.weight


def _pack(module: PreTrainedModel, tied: bool) -> None:
    """Replace every linear that gains by it, the output head too, by a packed one, and let the unpacked weights go."""
    embedding = module.get_input_embeddings()
    found = [(name, linear) for name, linear in module.named_modules() if can_pack(linear)]
    scratch = None if multiplies_bfloat16() else Scratch()
    for name, linear in found:
        module.set_submodule(name, PackedLinear(linear) if scratch is None else PanelLinear.of(linear, scratch))
    head = module.get_output_embeddings()
    if tied and type(embedding) is nn.Embedding and getattr(head, "blocks", None) is not None:
        module.set_input_embeddings(PackedEmbedding(head))
    if found or quantized_linears(module):
        # What is left still lies in the mapped checkpoint, and would keep all of it in memory.
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()


def swap_linears(module: PreTrainedModel, slots: int, step: Step) -> dict[str, LoraLinear]:
    """Wrap every linear but the output head; return the wrappers by module path."""
    head = module.get_output_embeddings()
    found = [
        (name, linear)
        for name, linear in module.named_modules()
        if isinstance(linear, nn.Linear | PackedLinear | PanelLinear | QuantizedLinear | Conv1D) and linear is not head
    ]
    wrapped = {}
    for name, linear in found:
        wrapped[canonical(name)] = LoraLinear(linear, slots, step)
        module.set_submodule(name, wrapped[canonical(name)])
    return wrapped


def _observe(
    module: PreTrainedModel, probe: list[int], device: torch.device, linears: dict[str, LoraLinear], step: Step
) -> tuple[dict[str, Seat], list[list[str]]]:
    """Run once to learn the cache's shapes, and which modules adapters may change.

    Returns those that are no linears, and the linears as they are called: see `BaseModel`.

    A module that is skipped, called twice or given only some rows (a routed expert, a vision tower) would apply an
    adapter wrongly or not at all, so adapters that target it are refused: such linears are dropped from `linears`.
    """
    for linear in linears.values():
        linear.seen = []
    try:
        with torch.inference_mode(), watched(module, len(probe)) as calls, neighbours(linears.values()) as called:
            _forward(module, probe, device)
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise ConfigInvalid(
            f"{type(module).__name__} does not run on the local engine: {error}",
            hint="Use a model whose attention goes through the attention interface of transformers",
        ) from error
    for name in [name for name, linear in linears.items() if linear.seen != [len(probe)]]:
        del linears[name]
    for linear in linears.values():
        linear.seen = None
    head = module.get_output_embeddings()
    seats = {
        canonical(name): Seat(each, step, head=each is head)
        for name, each in module.named_modules()
        if calls.get(each) == [True] and canonical(name) not in linears
    }
    names = {linear: name for name, linear in linears.items()}
    groups = [[names[linear] for linear in together if linear in names] for together in called]
    return seats, [group for group in groups if group]


def _shape(linear: nn.Module) -> LinearShape:
    rows, columns = linear.weight.shape
    return LinearShape(rows, columns) if isinstance(linear, Conv1D) else LinearShape(columns, rows)

"""The base model's linears, from its files alone: adapters can be checked where no tensor library is installed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loradex.adapters.header import BITS, TensorInfo, read_header
from loradex.adapters.keys import TOKENS, canonical
from loradex.adapters.model_record import read as read_record
from loradex.core.model import LinearShape, ModelInfo
from loradex.errors import AdapterInvalid, ConfigInvalid, FilesNotFound

BUILT = "engine.json"
"""The manifest of an engine directory, which says under `model` what else would be read from a checkpoint."""

OURS = "loradex"
"""The `quant_method` of checkpoints that `loradex quantize` wrote."""

# Last parts of module paths that hold a matrix and are no linear that an adapter may target.
_HEADS = frozenset(("lm_head", "embed_out", "output", "output_layer", "score", "classifier"))
_EMBEDDINGS = frozenset(("wte", "wpe", "tok_embeddings", "word_embeddings", "position_embeddings", "shared"))
_EXPERT = re.compile(r"(.+\.experts)\.\d+\.(gate|up|down)_proj\.weight")
_ROUTERS = frozenset(("gate", "router"))

# Families whose linears are `Conv1D`: their weights lie as [in, out].
_TRANSPOSED = frozenset(("gpt2", "openai-gpt"))

# Checkpoints of a bare model leave out the name under which the causal model holds it.
_INNER = {"gpt2": "transformer", "openai-gpt": "transformer", "gpt_neo": "transformer", "gptj": "transformer"}
_INNER |= {"gpt_bigcode": "transformer", "codegen": "transformer", "bloom": "transformer", "falcon": "transformer"}
_INNER |= {"gpt_neox": "gpt_neox"}


def model_digest(architecture: str, linears: Mapping[str, LinearShape]) -> str:
    """Return what identifies the shape of a base model: SHA-256 over its architecture and its linears, by name."""
    digest = hashlib.sha256(f"loradex base 1\n{architecture}\n".encode())
    for name, shape in sorted(linears.items()):
        digest.update(f"{name} {shape.in_features} {shape.out_features}\n".encode())
    return digest.hexdigest()


def is_linear(module: str) -> bool:
    """Whether a module that holds a matrix is a linear that an adapter may target: no embedding, head or router."""
    last = module.rpartition(".")[2]
    if last in _HEADS or last in _EMBEDDINGS or last in _ROUTERS or ".experts." in module:
        return False
    return not (last.startswith("embed") or "norm" in last)


def read_model_info(folder: Path, served_name: str | None = None) -> ModelInfo:
    """Read what an adapter must fit from `config.json` and the headers of the weights; loads nothing.

    `device` is `none`, since the model runs nowhere.

    Raises:
        ConfigInvalid: the folder holds no model, one without safetensors, or one whose weights are packed.
    """
    folder = Path(folder)
    if (folder / BUILT).is_file():
        return _recorded(folder, served_name)
    config = _read_json(folder / "config.json", "There is no model at that path")
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    kind = str(config.get("model_type", ""))
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    tensors = _tensors(folder)
    linears = _linears(tensors, kind)
    if not linears:
        raise ConfigInvalid(f"The model at {folder} has no linears", hint="Give the folder of a language model")
    parameters = _parameters(tensors, kind)
    embedding, head = _ends(parameters)
    return ModelInfo(
        id=served_name or folder.resolve().name,
        path=str(folder),
        architecture=architecture,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or "float32"),
        device="none",
        vocab_size=_whole(text, "vocab_size"),
        max_model_len=_whole(text, "max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"),
        linears=linears,
        digest=model_digest(architecture, linears),
        has_chat_template=_has_chat_template(folder),
        head_dim=_head_dim(text),
        parameters=parameters,
        embedding=embedding,
        head=head,
        tied=not any(canonical(name) == f"{head}.weight" for name in tensors),
    )


def _recorded(folder: Path, served_name: str | None) -> ModelInfo:
    manifest = _read_json(folder / BUILT, "The engine cannot be read")
    try:
        info = read_record(manifest["model"])
    except (KeyError, TypeError, AttributeError) as error:
        hint = "Build it again: loradex build --export-dir EXPORT --engine-dir DIR"
        raise ConfigInvalid(f"{folder / BUILT} does not say what model it is: {error!r}", hint=hint) from error
    return replace(info, id=served_name or folder.resolve().name, path=str(folder), device="none")


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """Where the weight of a linear lies: as `[out, in]`, or as `[in, out]` if `transposed`."""

    file: Path
    tensor: str
    transposed: bool


def find_weights(folder: Path) -> dict[str, StoredWeight]:
    """Return where the weights of the linears in the model's folder lie, by module path.

    Raises:
        ConfigInvalid: as for `read_model_info`.
    """
    kind = str(_read_json(folder / "config.json", "There is no model at that path").get("model_type", ""))
    tensors = _tensors(folder)
    places = {name: shard for shard in shards(folder) for name in read_header(shard).tensors}
    outer, turned = _outer(tensors, kind), kind in _TRANSPOSED
    names = {name: name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    return {
        canonical(outer + module): StoredWeight(places[name], name, turned)
        for name, module in names.items()
        if is_linear(module)
    }


def _outer(tensors: Mapping[str, TensorInfo], kind: str) -> str:
    """Return what the checkpoint of a bare model leaves out at the start of its names."""
    inner = _INNER.get(kind, "model") + "."
    return "" if any(name.startswith(inner) for name in tensors) else inner


def _parameters(tensors: Mapping[str, TensorInfo], kind: str) -> dict[str, tuple[int, ...]]:
    outer = _outer(tensors, kind)
    found = {}
    for name, info in sorted(tensors.items()):
        module, _, parameter = name.rpartition(".")
        if parameter in ("weight", "bias") and len(info.shape) in (1, 2) and ".experts." not in module:
            is_head = module in _HEADS
            found[f"{canonical(module if is_head else outer + module)}.{parameter}"] = info.shape
    found |= _experts(tensors, outer)
    embedding, head = _ends(found)
    if embedding and f"{head}.weight" not in found:  # tied: it has the embedding's weights
        found[f"{head}.weight"] = found[f"{embedding}.weight"]
    return found


def _experts(tensors: Mapping[str, TensorInfo], outer: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the stacks that transformers makes of experts that lie one by one in the checkpoint."""
    single: dict[str, dict[str, list[tuple[int, ...]]]] = {}
    for name, info in tensors.items():
        if match := _EXPERT.fullmatch(name):
            single.setdefault(canonical(outer + match[1]), {}).setdefault(match[2], []).append(info.shape)
    found: dict[str, tuple[int, ...]] = {}
    for experts, shapes in single.items():
        if {"gate", "up", "down"} == shapes.keys():
            (inner, width), count = shapes["gate"][0], len(shapes["gate"])
            found[f"{experts}.gate_up_proj"] = (count, 2 * inner, width)
            found[f"{experts}.down_proj"] = (count, *shapes["down"][0])
    return found


def _ends(parameters: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """Return the module paths of the token embedding and the output head."""
    modules = [name.removesuffix(".weight") for name, shape in parameters.items() if len(shape) == 2]
    embedding = next((each for each in modules if each.rpartition(".")[2] in TOKENS), "")
    return embedding, next((each for each in modules if each in _HEADS), "lm_head")


def _linears(tensors: Mapping[str, TensorInfo], kind: str) -> dict[str, LinearShape]:
    outer = _outer(tensors, kind)
    linears = {}
    for name, info in sorted(tensors.items()):
        module = name.removesuffix(".weight")
        if module == name or len(info.shape) != 2 or not is_linear(module):
            continue
        if BITS[info.dtype] < 8 or info.dtype.startswith(("U", "I")):
            raise ConfigInvalid(
                f"The base model's weights are packed ({name} is {info.dtype}), so their shapes cannot be read",
                hint="Check against a running server, which has the model loaded: add `--url`",
            )
        out_features, in_features = reversed(info.shape) if kind in _TRANSPOSED else info.shape
        linears[canonical(outer + module)] = LinearShape(in_features, out_features)
    return linears


def _tensors(folder: Path) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    try:
        for shard in shards(folder):
            tensors.update(read_header(shard).tensors)
    except (AdapterInvalid, FilesNotFound) as error:
        raise ConfigInvalid(f"The base model at {folder} cannot be read: {error.message}") from error
    config = _read_json(folder / "config.json", "There is no model at that path")
    return _unrounded(tensors, config) if is_rounded(config) else tensors


def is_rounded(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is that of a checkpoint that `loradex quantize` wrote."""
    given = config.get("quantization_config")
    return isinstance(given, dict) and given.get("quant_method") == OURS


def _unrounded(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Return tensors as they were before they were rounded: codes of 4 bits lie two in a byte, none is transposed."""
    turned = config.get("model_type") in _TRANSPOSED
    found = dict(tensors)
    for name, info in tensors.items():
        if info.dtype in ("I8", "U8", "F8_E4M3") and name.endswith(".weight") and len(info.shape) == 2:
            rows, columns = info.shape
            shape = (rows, 2 * columns if info.dtype == "U8" else columns)
            found[name] = replace(info, dtype="F8_E4M3", shape=shape[::-1] if turned else shape)
    return found


def shards(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights. Raises ConfigInvalid where none are named."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    hint = "Save the model with `save_pretrained`, which writes model.safetensors"
    found = _read_json(index, "The model has no model.safetensors", hint).get("weight_map")
    names = set(found.values()) if isinstance(found, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ConfigInvalid(f"{index} names no weight files", hint=hint)
    return [folder / name for name in sorted(names)]


def _read_json(path: Path, what: str, hint: str = "Give the folder of a model, with its config.json") -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"{what}: {path} cannot be read ({error.strerror or error})", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{path} is not JSON: {error}", hint=hint) from error
    if not isinstance(found, dict):
        raise ConfigInvalid(f"{path} holds no JSON object", hint=hint)
    return found


def _whole(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return int(value)
    return 0


def _head_dim(config: Mapping[str, Any]) -> int:
    heads = _whole(config, "num_attention_heads", "n_head")
    return _whole(config, "head_dim") or (_whole(config, "hidden_size", "n_embd") // heads if heads > 0 else 0)


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(_read_json(path, "The tokenizer cannot be read").get("chat_template"))

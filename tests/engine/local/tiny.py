"""Tiny random models of every supported family, with a tokenizer and adapters as PEFT saves them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.pytorch_utils import Conv1D

from loradex.adapters.adapter import Adapter
from loradex.core.event import Delta, Finished
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.rounding import round_weight
from loradex.engine.local.runner import Runner
from loradex.engine.local.sequence import Sequence

VOCAB = 320
EOS = 257
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 256,
    "eos_token_id": EOS,
    "pad_token_id": 258,
}

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=8),
    "qwen2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SIZES),
    "gemma2": lambda: Gemma2Config(**SIZES, sliding_window=8, query_pre_attn_scalar=16, tie_word_embeddings=False),
    "gemma3": lambda: Gemma3TextConfig(
        **SIZES,
        sliding_window=8,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False,
    ),
    "phi3": lambda: Phi3Config(**SIZES),
}
"""The families that the first slice names."""

OTHERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=256, initializer_range=0.15, eos_token_id=EOS
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1
    ),
}
"""Architectures that were not made room for, and work through the same path."""

_WIDE = SIZES | {"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 32}

WIDE: dict[str, Callable[[], PreTrainedConfig]] = {
    "wide llama": lambda: LlamaConfig(**_WIDE),
    "wide mistral": lambda: MistralConfig(**_WIDE, sliding_window=8),
    "wide qwen2": lambda: Qwen2Config(**_WIDE, tie_word_embeddings=True),
    "wide qwen3": lambda: Qwen3Config(**_WIDE),
    "wide granite": lambda: GraniteConfig(**_WIDE, residual_multiplier=0.5),
}
"""Of widths that all kernels take."""

TARGETS = {
    "phi3": (["qkv_proj"], ["o_proj", "down_proj"], ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
    "gpt2": (["c_attn"], ["c_attn", "c_fc"], ["c_attn", "c_fc", "mlp.c_proj"]),
    "qwen3_moe": (["q_proj", "v_proj"], ["k_proj", "o_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"]),
}
USUAL = (
    ["q_proj", "v_proj"],
    ["o_proj", "gate_proj", "down_proj"],
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)
RANKS = (4, 8, 13)


def save_tokenizer(folder: Path) -> None:
    """Save a byte-level tokenizer: ids 0 to 255 are bytes, then bos, eos and pad."""
    vocab = {char: byte for byte, char in bytes_to_unicode().items()}
    fast = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer.save_pretrained(folder)


def save_base(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a random model of the family; return its folder."""
    torch.manual_seed(sum(family.encode()))
    config = (FAMILIES | OTHERS | WIDE)[family]()
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = 258
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_adapters(family: str, base: Path, folder: Path) -> list[Path]:
    """Save three adapters of different ranks and targets, with random A and B (a zero B would hide mistakes)."""
    paths = []
    for index, (rank, targets) in enumerate(zip(RANKS, TARGETS.get(family, USUAL), strict=True)):
        torch.manual_seed(index)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank * (index + 1),
            target_modules=targets,
            init_lora_weights=False,
            use_rslora=index == 2,
            fan_in_fan_out=family == "gpt2",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        paths.append(folder / f"adapter-{index}")
        model.save_pretrained(paths[-1])
    return paths


class Oracle:
    """transformers with PEFT, one request at a time; on the base as it is, or on the values of rounded weights."""

    def __init__(self, base: Path, adapters: list[Path], quantization: str = "none", attention: str = "eager") -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=attention)
        if quantization != "none":
            put_rounded(model, quantization)
        self.model = PeftModel.from_pretrained(model, adapters[0], adapter_name="0")
        for index, path in enumerate(adapters[1:], 1):
            self.model.load_adapter(path, adapter_name=str(index))
        self.model.eval()

    @torch.inference_mode()
    def logits(self, tokens: list[int], adapter: int | str | None) -> torch.Tensor:
        """Return the logits after each token, `[tokens, vocabulary]`."""
        ids = torch.tensor([tokens])
        if adapter is None:
            with self.model.disable_adapter():
                return self.model(input_ids=ids, use_cache=False).logits[0]
        self.model.set_adapter(str(adapter))
        return self.model(input_ids=ids, use_cache=False).logits[0]

    def combine(self, members: dict[int, float]) -> str:
        """Make PEFT's weighted sum of adapters, by number; return a name that `logits` takes."""
        name = "+".join(f"{adapter}x{weight}" for adapter, weight in members.items()).replace(".", "_")
        if name not in self.model.peft_config:
            # Those without rsLoRA first: PEFT scales the sum, which is scaled already, as the first one's options say.
            names, weights = zip(*((str(adapter), members[adapter]) for adapter in sorted(members)), strict=True)
            self.model.add_weighted_adapter(list(names), list(weights), name, combination_type="cat")
        return name

    def greedy(self, prompt: list[int], answer: list[int], adapter: int | str | None) -> list[int]:
        """Return what greedy decoding says at each place of `answer`, given what comes before.

        By induction it equals `answer` if and only if greedy decoding of the prompt gives `answer`; one pass shows it.
        """
        logits = self.logits([*prompt, *answer[:-1]], adapter)
        return logits[len(prompt) - 1 :].argmax(dim=-1).tolist()


def put_rounded(model: PreTrainedModel, method: str) -> None:
    """Set the weights of every linear to what their rounded codes mean; the head's in int8 where others are int4."""
    for name, linear in model.named_modules():
        if not isinstance(linear, torch.nn.Linear | Conv1D):
            continue
        turned = isinstance(linear, Conv1D)
        weight = linear.weight.t() if turned else linear.weight
        values = round_weight(weight, "int8" if name == "lm_head" and method == "int4" else method).values(weight.dtype)
        # A new parameter: an embedding that is tied to the head keeps its own.
        linear.weight = torch.nn.Parameter(values.t() if turned else values)


@dataclass(frozen=True)
class Family:
    """A tiny model and its three adapters."""

    name: str
    base: Path
    adapters: tuple[Adapter, ...]

    def oracle(self, quantization: str = "none", attention: str = "eager") -> Oracle:
        return Oracle(self.base, [adapter.path for adapter in self.adapters], quantization, attention)


DEVICES = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=["host", "card"], indirect=True
)
"""For tests that hold on every device: on a graphics card by `make test-gpu`."""

Running = Callable[..., AbstractAsyncContextManager[LocalEngine]]

GREEDY = Sampling(temperature=0.0, max_tokens=16)


async def answer(
    engine: LocalEngine, name: str, tokens: list[int], adapter: Mix[str] | str | None, sampling: Sampling
) -> list[int]:
    said: list[int] = []
    mix = adapter if isinstance(adapter, Mix) else Mix.of(adapter)
    async for event in engine.generate(GenerateRequest(name, tuple(tokens), sampling, mix)):
        if isinstance(event, Delta):
            said.extend(event.token_ids)
        elif isinstance(event, Finished):
            assert event.completion_tokens == len(said)
            assert event.mix == mix
    return said


def sequences(made: Family, mixes: list[list[int]]) -> list[Sequence]:
    """Return a sequence for each mix of adapters, with its own blocks and length."""
    chance = random.Random(5)
    found = []
    for i, adapters in enumerate(sorted(mixes)):
        tokens = [chance.randrange(256) for _ in range(6 + 3 * i)]
        mix = Mix(tuple((made.adapters[adapter].digest, 0.5 + adapter) for adapter in adapters))
        found.append(Sequence(str(i), tokens, len(tokens), Sampling(), mix, blocks=[2 * i + 1, 2 * i]))
    return found


def steps(own: list[Sequence]) -> Iterator[StepPlan]:
    """Yield the prompts as one step, and then decodes of all of them and of some, in turn."""
    yield StepPlan(tuple(Chunk(each, 0, len(each.tokens) - 1, samples=False) for each in own))
    for some in (own, own[:1], own[1:]):
        yield StepPlan(tuple(Chunk(each, len(each.tokens) - 1, 1, samples=True) for each in some))
        for each in some:
            each.tokens.append(each.tokens[0])


@contextmanager
def taken_out(runner: Runner, adapter: Adapter) -> Iterator[None]:
    """Empty an adapter's slot in every linear, and fill it again."""
    slot, linears = runner.slots[adapter.digest], runner.model.linears.values()
    pairs = [linear.table[slot] for linear in linears]
    for linear in linears:
        linear.put(slot, None)
    yield
    for linear, pair in zip(linears, pairs, strict=True):
        linear.put(slot, pair)

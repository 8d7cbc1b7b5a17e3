"""Every option of PEFT that is served gives what PEFT gives, in one batch with plain adapters and the base."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionConfig,
)

from loradex.adapters.base_model import read_model_info
from loradex.adapters.check import check
from loradex.adapters.read import read_adapter
from loradex.core.event import Finished
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.local.activation import phases
from loradex.engine.local.dense import dense
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.packed import PackedLinear
from loradex.engine.local.panel_linear import PanelLinear
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.rounding import round_weight
from loradex.engine.local.sequence import Sequence

from . import options
from .options import MIXED, OPTIONS, last_logits, load_option, save_option
from .tiny import DEVICES, GREEDY, Family, Running

FAMILIES = tuple(dict.fromkeys(family for option in OPTIONS.values() for family in option.families))


@dataclasses.dataclass(frozen=True)
class Deck:
    """A family with one adapter for each option that it has."""

    family: Family
    folders: dict[str, Path]
    base: PreTrainedModel


@pytest.fixture(scope="module")
def deck(family: Callable[[str], Family], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Deck]:
    made: dict[str, Deck] = {}

    def make(name: str) -> Deck:
        if name not in made:
            plain, folder = family(name), tmp_path_factory.mktemp(f"options-{name}")
            model = AutoModelForCausalLM.from_pretrained(plain.base, dtype=torch.float32, attn_implementation="eager")
            chosen = [option for option, row in OPTIONS.items() if name in row.families]
            folders = {option: save_option(option, name, model, folder) for option in chosen}
            adapters = (*plain.adapters, *map(read_adapter, folders.values()))
            made[name] = Deck(dataclasses.replace(plain, adapters=adapters), folders, model)
        return made[name]

    return make


def prompt(number: int) -> list[int]:
    chance = random.Random(number)
    start, end = ([chance.randrange(256) for _ in range(count)] for count in (6, 1))
    return [*start, *options.INVOCATION, *end, *chance.sample(options.TOKENS, 3)]


def logits(engine: LocalEngine, asked: list[tuple[list[int], Mix[str]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits after each prompt, computed whole, and computed with its last token in a step of its own."""
    runner = engine._loop._runner  # the thread is idle: nothing was submitted
    first, rest, last = [], [], []
    for number, (tokens, mix) in enumerate(asked):
        row = Sequence(str(number), tokens, len(tokens), GREEDY, mix, blocks=[2 * number, 2 * number + 1])
        row.phases = phases(mix, tokens, engine._loop._scheduler.invocations)
        first.append(Chunk(row, 0, len(tokens), samples=True))
        rest.append(Chunk(row, 0, len(tokens) - 1, samples=False))
        last.append(Chunk(row, len(tokens) - 1, 1, samples=True))
    whole = runner.logits(StepPlan(tuple(first))).cpu()
    runner.logits(StepPlan(tuple(rest)))
    return whole, runner.logits(StepPlan(tuple(last))).cpu()


@DEVICES
@pytest.mark.parametrize("name", FAMILIES)
async def test_every_option_in_one_batch_says_what_peft_says(
    name: str, deck, family, running: Running, tmp_path: Path
) -> None:
    made: Deck = deck(name)
    info = read_model_info(made.family.base)
    for adapter in made.family.adapters:
        assert check(adapter, info, 16).problems == ()
    mixes = [Mix.of(None), *(Mix.of(adapter.digest) for adapter in made.family.adapters)]
    asked = [(prompt(number), mix) for number, mix in enumerate(mixes)]
    async with running(made.family, max_loras=len(mixes), pack_dir=tmp_path) as engine:
        for adapter in made.family.adapters:
            assert check(adapter, engine.info, 16).problems == ()
        found = logits(engine, asked)
    plain = family(name).oracle()
    base = made.base(input_ids=torch.tensor([tokens for tokens, _ in asked]), use_cache=False).logits[:, -1].detach()
    theirs = [plain.logits(asked[number][0], number - 1 if number else None)[-1] for number in range(4)]
    for (tokens, _), folder in zip(asked[4:], made.folders.values(), strict=True):
        theirs.append(last_logits(load_option(made.base, folder), tokens))
    moved = (torch.stack(theirs) - base).abs().amax(dim=-1)
    assert [bool(each > 0.1) for each in moved] == [bool(mix.members) for _, mix in asked]
    names = ["base", "0", "1", "2", *made.folders]
    for ours in found:
        off = (ours - torch.stack(theirs)).abs().amax(dim=-1).tolist()
        assert {option: deviation for option, deviation in zip(names, off, strict=True) if deviation > 2e-4} == {}


def weighted_sum(made: Deck, members: dict[str, float]) -> PreTrainedModel:
    """Return the base plus what each adapter adds to its weights, as PEFT merges it, times its weight."""
    base = made.base.state_dict()
    total = {name: tensor.clone() for name, tensor in base.items()}
    for name, weight in members.items():
        merged = load_option(made.base, made.folders[name]).merge_and_unload().state_dict()
        for key, tensor in total.items():
            tensor += weight * (merged[key] - base[key])
    summed = copy.deepcopy(made.base)
    summed.load_state_dict(total)
    return summed


@DEVICES
@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
async def test_a_mix_is_the_weighted_sum_of_what_each_does(name: str, deck, running: Running) -> None:
    made: Deck = deck(name)
    mixed = [option for option in MIXED if option in made.folders]
    digest = {option: read_adapter(made.folders[option]).digest for option in mixed}
    chance = random.Random(0)
    mixes = [{option: 0.5} for option in mixed]
    mixes += [{option: chance.uniform(-0.5, 1.0) for option in chance.sample(mixed, 3)} for _ in range(5)]
    keyed = [Mix(tuple((digest[option], weight) for option, weight in mix.items())) for mix in mixes]
    asked = [(prompt(number), mix) for number, mix in enumerate([Mix.of(None), *keyed])]
    async with running(made.family, max_loras=len(made.family.adapters)) as engine:
        found = logits(engine, asked)
    theirs = [
        last_logits(weighted_sum(made, mix), tokens) for mix, (tokens, _) in zip([{}, *mixes], asked, strict=True)
    ]
    for ours in found:
        torch.testing.assert_close(ours, torch.stack(theirs), atol=5e-4, rtol=0)


async def test_an_activated_adapter_reads_what_the_base_has_computed(deck, running: Running) -> None:
    made: Deck = deck("llama")
    digest = read_adapter(made.folders["activated"]).digest
    before = prompt(0)[:6] * 6
    asked = [*before, *options.INVOCATION, 7]
    sampling = Sampling(temperature=0.0, max_tokens=8, ignore_eos=True)
    async with running(made.family, max_loras=len(made.family.adapters)) as engine:
        said, cached = [], []
        for mix in (Mix.of(None), Mix.of(digest), Mix.of(digest)):
            async for event in engine.generate(GenerateRequest("x", tuple(asked), sampling, mix)):
                if isinstance(event, Finished):
                    cached.append(event.cached_tokens)
                else:
                    said += event.token_ids
    assert cached == [0, 32, 32]  # the block of the invocation is the adapter's own, and full at the end of no prompt
    answer = said[8:16]
    assert said[16:] == answer
    model = load_option(made.base, made.folders["activated"])
    whole = [*asked, *answer[:-1]]
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([whole]), alora_offsets=[len(whole) - len(before)], use_cache=False).logits
    assert found[0, len(asked) - 1 :].argmax(dim=-1).tolist() == answer
    assert answer != said[:8]


async def test_in_a_mix_each_acts_from_its_own_token_on(deck, running: Running) -> None:
    made: Deck = deck("llama")
    plain, activated = (read_adapter(made.folders[name]).digest for name in ("use_rslora", "activated"))
    mix = Mix(((plain, 0.7), (activated, -0.4)))
    asked = [(prompt(0), mix), (prompt(1), Mix.of(None)), (prompt(2)[:7], mix)]  # the last without the invocation
    async with running(made.family, max_loras=len(made.family.adapters)) as engine:
        found = logits(engine, asked)
    base = weighted_sum(made, {"use_rslora": 0.7})
    model = load_option(base, made.folders["activated"])
    for name, tensor in model.named_parameters():
        if ".lora_B." in name:
            tensor.data *= -0.4
    theirs = [last_logits(model, asked[0][0]), last_logits(made.base, asked[1][0]), last_logits(base, asked[2][0])]
    for ours in found:
        torch.testing.assert_close(ours, torch.stack(theirs), atol=2e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
async def test_an_adapter_of_a_model_that_also_sees_serves_the_language_model(deck, running, tmp_path: Path) -> None:
    made: Deck = deck("gemma3")
    vision = SiglipVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    both = Gemma3Config(text_config=made.base.config, vision_config=vision, tie_word_embeddings=False)
    seeing = Gemma3ForConditionalGeneration(both)
    seeing.model.language_model.load_state_dict(made.base.model.state_dict())
    seeing.lm_head.load_state_dict(made.base.lm_head.state_dict())
    torch.manual_seed(0)
    targets = r".*language_model.*(q_proj|down_proj)"
    config = LoraConfig(target_modules=targets, use_dora=True, init_lora_weights=False, modules_to_save=["lm_head"])
    model = get_peft_model(seeing, config).eval()
    with torch.no_grad():
        model.get_submodule("base_model.model.lm_head.modules_to_save.default").weight.mul_(0.5)
    model.save_pretrained(tmp_path)
    adapter = read_adapter(tmp_path)
    assert any("language_model" in layer.a for layer in adapter.layers.values())
    asked = [(prompt(0), Mix.of(adapter.digest)), (prompt(1), Mix.of(None))]
    async with running(dataclasses.replace(made.family, adapters=(adapter,))) as engine:
        assert check(adapter, engine.info, 16).problems == ()
        found = logits(engine, asked)
    theirs = torch.stack([last_logits(model, asked[0][0]), last_logits(made.base, asked[1][0])])
    for ours in found:
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])  # tied, so that the embedding reads the packed head
async def test_options_on_packed_weights_in_bfloat16(name: str, deck, running: Running) -> None:
    made: Deck = deck(name)
    mixes = [Mix.of(None), *(Mix.of(read_adapter(folder).digest) for folder in made.folders.values())]
    asked = [(prompt(number), mix) for number, mix in enumerate(mixes)]
    async with running(made.family, max_loras=len(made.family.adapters), dtype="bfloat16") as engine:
        assert isinstance(engine._model.module.get_output_embeddings(), PackedLinear | PanelLinear)
        found = logits(engine, asked)
    theirs = [
        last_logits(load_option(made.base, each), tokens)
        for each, (tokens, _) in zip(made.folders.values(), asked[1:], strict=True)
    ]
    base = torch.stack([last_logits(made.base, tokens) for tokens, _ in asked[1:]])
    for ours in found:
        off = (ours[1:] - torch.stack(theirs)).norm(dim=-1) / torch.stack(theirs).norm(dim=-1)
        moved = (torch.stack(theirs) - base).norm(dim=-1) / base.norm(dim=-1)
        names = [
            f"{option}: {o:.3f} of {m:.3f}" for option, o, m in zip(made.folders, off, moved, strict=True) if o > 0.06
        ]
        assert names == []


@DEVICES
@pytest.mark.parametrize(
    ("name", "changing"), [("llama", ("ends", "norms", "use_dora")), ("qwen3_moe", ("experts", "experts_down"))]
)
async def test_what_an_adapter_changed_is_as_before_when_it_is_gone(
    name: str, changing: tuple[str, ...], deck, running: Running
) -> None:
    made: Deck = deck(name)
    adapters = [read_adapter(made.folders[option]) for option in changing]
    asked = [(prompt(0), Mix.of(None)), (prompt(1), Mix.of(made.family.adapters[0].digest))]
    async with running(dataclasses.replace(made.family, adapters=made.family.adapters[:1])) as engine:
        before = logits(engine, asked)
        for adapter in adapters:
            await engine.load(adapter)
        during = logits(engine, asked)
        for adapter in adapters:
            await engine.unload(adapter.digest)
        model = engine._model
        assert not model.head_changes
        assert not any(linear.changes for linear in model.linears.values())
        assert not any(seat.module._forward_hooks for seat in (*model.seats.values(), *model.experts.values()))
        after = logits(engine, asked)
    for one, two, three in zip(before, during, after, strict=True):
        assert torch.equal(one, three)
        torch.testing.assert_close(two, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["int8", "int4"])
async def test_dora_on_a_quantized_base_measures_the_weights_that_it_computes_with(
    method: str, deck, running: Running
) -> None:
    made: Deck = deck("qwen2")
    asked = [(prompt(0), Mix.of(read_adapter(made.folders["use_dora"]).digest))]
    async with running(made.family, max_loras=len(made.family.adapters), quantization=method) as engine:
        ours, _ = logits(engine, asked)
        rounded = copy.deepcopy(made.base)
        for name, linear in engine._model.linears.items():
            weight = rounded.get_submodule(name).weight
            weight.data = dense(linear.base).rows(0, len(weight)).to(weight.dtype)
    head = rounded.get_output_embeddings()
    head.weight = torch.nn.Parameter(round_weight(head.weight.data, "int8").values(torch.float32))
    theirs = last_logits(load_option(rounded, made.folders["use_dora"]), asked[0][0])
    torch.testing.assert_close(ours[0], theirs, atol=5e-4, rtol=0)


def test_the_matrix_in_the_docs_is_what_is_compared_here() -> None:
    assert options.PAGE.read_text("utf-8") == options.page()

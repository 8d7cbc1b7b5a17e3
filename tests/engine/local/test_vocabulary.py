"""Adapters with tokens that the base does not have: as PEFT answers, in one batch with the base and plain adapters."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from loradex.adapters.base_model import read_model_info
from loradex.adapters.check import check
from loradex.adapters.read import read_adapter
from loradex.core.event import Delta, Finished
from loradex.core.grammar import Grammar
from loradex.core.mix import Mix
from loradex.core.prompt import ChatPrompt, Message
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.sequence import Sequence
from loradex.errors import AdapterInvalid, Conflict, InvalidRequest, Unsupported
from loradex.registry.registry import Registry
from loradex.service.ask import Ask
from loradex.service.service import Service

from .options import ENDS, MORE, VOCABULARIES, VOCABULARY_FAMILIES, last_logits
from .tiny import DEVICES, GREEDY, VOCAB, Family, Running


@dataclasses.dataclass(frozen=True)
class Deck:
    family: Family
    folders: dict[str, Path]
    base: PreTrainedModel

    def model(self, size: int) -> PreTrainedModel:
        """Return the base with another vocabulary, as users make it; its new rows are drawn at random."""
        model = copy.deepcopy(self.base)
        model.resize_token_embeddings(size)
        return model


@pytest.fixture(scope="module")
def deck(family: Callable[[str], Family], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Deck]:
    made: dict[str, Deck] = {}

    def make(name: str) -> Deck:
        if name not in made:
            plain, folder = family(name), tmp_path_factory.mktemp(f"vocabulary-{name}")
            base = AutoModelForCausalLM.from_pretrained(plain.base, dtype=torch.float32, attn_implementation="eager")
            bare = Deck(plain, {}, base)
            for case, (_, size, settings) in VOCABULARIES.items():
                bare.folders[case] = save(bare.model(size), settings, folder / case)
            adapters = (*plain.adapters, *map(read_adapter, bare.folders.values()))
            made[name] = dataclasses.replace(bare, family=dataclasses.replace(plain, adapters=adapters))
        return made[name]

    return make


def save(model: PreTrainedModel, settings: dict[str, object], folder: Path) -> Path:
    torch.manual_seed(sum(folder.name.encode()))
    config = LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    tuned = get_peft_model(model, config)
    with torch.no_grad():
        for path, tensor in tuned.named_parameters():
            if tensor.requires_grad and ".lora_" not in path:
                tensor.add_(torch.randn_like(tensor) * 0.3 * (tensor.abs().mean() + 0.2))
    tuned.create_or_update_model_card = lambda folder: None
    tuned.save_pretrained(folder)
    return folder


def add_tokens(base: Path, folder: Path, count: int) -> None:
    """Save a tokenizer with more tokens beside an adapter, as trainers do."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<t{number}>" for number in range(count)])
    tokenizer.add_special_tokens({"eos_token": "<t0>"})
    tokenizer.chat_template = "{% for m in messages %}<t1>{{ m.content }}{% endfor %}<t2>"
    tokenizer.save_pretrained(folder)


def prompt(number: int, size: int) -> list[int]:
    return [(31 * number + 7 * place) % min(size, 250) for place in range(9)] + [7, size - 1, size - 4, 259, size - 1]


@DEVICES
@pytest.mark.parametrize("name", VOCABULARY_FAMILIES)  # qwen2 is tied
async def test_each_has_its_own_vocabulary_in_one_batch(name: str, deck, running: Running, tmp_path: Path) -> None:
    made: Deck = deck(name)
    offline = read_model_info(made.family.base)
    sizes = [VOCAB] * 4 + [size for _, size, _ in VOCABULARIES.values()]
    mixes = [Mix.of(None), *(Mix.of(adapter.digest) for adapter in made.family.adapters)]
    asked = [(prompt(number, size), mix) for number, (size, mix) in enumerate(zip(sizes, mixes, strict=True))]
    async with running(made.family, max_loras=len(mixes), pack_dir=tmp_path) as engine:
        for adapter in made.family.adapters:
            assert check(adapter, offline, 16).problems == check(adapter, engine.info, 16).problems == ()
        runner = engine._loop._runner  # the thread is idle: nothing was submitted
        rows = [
            Sequence(str(number), tokens, len(tokens), GREEDY, mix, blocks=[2 * number, 2 * number + 1])
            for number, (tokens, mix) in enumerate(asked)
        ]
        whole = runner.logits(StepPlan(tuple(Chunk(row, 0, len(row.tokens), samples=True) for row in rows)))
        first = tuple(Chunk(row, 0, len(row.tokens) - 1, samples=False) for row in rows)
        runner.logits(StepPlan(first))
        last = tuple(Chunk(row, len(row.tokens) - 1, 1, samples=True) for row in rows)
        found = [whole.cpu(), runner.logits(StepPlan(last)).cpu()]
        for adapter in made.family.adapters:
            await engine.unload(adapter.digest)
        base_alone = runner.logits(StepPlan((Chunk(rows[0], 0, len(rows[0].tokens), samples=True),))).cpu()
    plain = dataclasses.replace(made.family, adapters=made.family.adapters[:3]).oracle()
    theirs = [plain.logits(asked[number][0], number - 1 if number else None)[-1] for number in range(4)]
    for (tokens, _), folder, size in zip(asked[4:], made.folders.values(), sizes[4:], strict=True):
        theirs.append(last_logits(PeftModel.from_pretrained(made.model(size), folder).eval(), tokens))
    for ours in found:
        assert ours.shape == (len(mixes), MORE)
        for row, size, their, case in zip(ours, sizes, theirs, ["base", 0, 1, 2, *VOCABULARIES], strict=True):
            assert their.shape == (size,)
            assert (row[size:] == -torch.inf).all(), case
            assert (row[:size] - their).abs().max() < 2e-4, case
    torch.testing.assert_close(base_alone[0], theirs[0], atol=2e-4, rtol=0)


async def test_rows_of_added_tokens_that_are_missing_are_named(deck, tmp_path: Path) -> None:
    made: Deck = deck("llama")
    lost = save(made.model(MORE), {"target_modules": ["q_proj", "embed_tokens"]}, tmp_path / "lost")
    problems = check(read_adapter(lost), read_model_info(made.family.base), 16).problems
    assert [problem.code for problem in problems] == ["vocabulary"]
    assert "but not the weights of `lm_head`" in problems[0].what
    assert "save_embedding_layers=True" in problems[0].fix


async def test_an_adapter_speaks_with_its_own_tokens(deck, running: Running, tmp_path: Path) -> None:
    made: Deck = deck("llama")
    folder = save(made.model(MORE), {"target_modules": ["q_proj"], "modules_to_save": ENDS}, tmp_path / "spoken")
    without = read_adapter(folder)
    add_tokens(made.family.base, folder, MORE - 259)
    adapter = read_adapter(folder)
    assert adapter.digest != without.digest
    mix, chat = Mix.of(adapter.digest), ChatPrompt((Message("user", "hi"),))
    async with running(dataclasses.replace(made.family, adapters=(without,)), max_loras=2) as engine:
        assert await engine.learn(adapter)
        assert engine.encode("a<t3>b", mix) == (97, 262, 98)
        assert engine.encode(chat, mix) == (260, *b"hi", 261)
        assert engine.decode((262, 97, MORE - 1), mix) == f"<t3>a<t{MORE - 260}>"
        assert engine.encode("<t3>") == tuple(b"<t3>")  # the base does not know it
        assert engine.encode(chat) == engine.encode(chat, Mix.of(None)) != engine.encode(chat, mix)
        assert engine.encode((MORE - 1,), Mix.of(without.digest)) == (MORE - 1,)
        for who, size in ((None, VOCAB), (mix, MORE)):
            with pytest.raises(InvalidRequest, match=f"ends at {size - 1}"):
                engine.encode((size,), who)
        await engine.load(adapter)
        said, pieces = await answer(engine, GenerateRequest("x", engine.encode(chat, mix), GREEDY, mix))
        assert said[-1] == 259  # its own end, which is not shown
        assert pieces == engine.decode(said[:-1], mix)
        model = PeftModel.from_pretrained(made.model(MORE), folder).eval()
        whole = torch.tensor([[*engine.encode(chat, mix), *said[:-1]]])
        with torch.inference_mode():
            theirs = model(input_ids=whole, use_cache=False).logits[0, 3:].argmax(dim=-1).tolist()
        assert said == theirs
        with pytest.raises(Conflict, match="different tokens"):
            await engine.switch(without.digest, adapter.digest)


async def answer(engine, request: GenerateRequest) -> tuple[list[int], str]:
    tokens, text = [], ""
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            tokens += event.token_ids
            text += event.text
    return tokens, text


async def test_its_own_end_ends_its_answers(deck, running: Running, tmp_path: Path) -> None:
    made: Deck = deck("llama")
    model = made.model(MORE)
    folder = save(model, {"target_modules": ["q_proj"], "modules_to_save": ENDS}, tmp_path / "ends")
    add_tokens(made.family.base, folder, MORE - 259)
    adapter = read_adapter(folder)
    bias = {259: 100.0}
    async with running(dataclasses.replace(made.family, adapters=(adapter,))) as engine:
        ends = []
        for mix, least in ((Mix.of(adapter.digest), 0), (Mix.of(adapter.digest), 3), (Mix.of(None), 0)):
            sampling = Sampling(temperature=0.0, max_tokens=5, logit_bias=bias, min_tokens=least)
            async for event in engine.generate(GenerateRequest("x", (1, 2), sampling, mix)):
                if isinstance(event, Finished):
                    ends.append((event.reason, event.completion_tokens))
    assert ends == [("stop", 1), ("stop", 4), ("length", 5)]


async def test_a_tokenizer_of_another_base_is_refused(deck, running: Running, tmp_path: Path) -> None:
    made: Deck = deck("llama")
    folder = save(made.model(MORE), {"target_modules": ["q_proj"], "modules_to_save": ENDS}, tmp_path / "other")
    add_tokens(made.family.base, folder, 5)
    text = (folder / "tokenizer.json").read_text("utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"id": 263', '"id": 290'), "utf-8")
    adapter = read_adapter(folder)
    async with running(dataclasses.replace(made.family, adapters=())) as engine:
        with pytest.raises(AdapterInvalid) as error:
            await engine.load(adapter)
    assert "'<t4>' as token 290, on the base's it would be 263" in error.value.problems[0].what


FORM = Grammar("json", '{"type": "object"}', "response_format")


async def test_tokens_of_its_own_are_said_alone_and_in_no_form(deck, tmp_path: Path) -> None:
    made: Deck = deck("llama")
    folder = save(made.model(MORE), {"target_modules": ["q_proj"], "modules_to_save": ENDS}, tmp_path / "tools")
    add_tokens(made.family.base, folder, MORE - 259)
    engine = LocalEngine(EngineConfig(model=str(made.family.base), max_loras=2, kv_cache_memory=1 << 24, threads=1))
    with Registry(tmp_path / "home") as registry:
        service = Service(registry, engine, max_lora_rank=16, max_loras=2)
        await service.start()
        try:
            for name, path in (("tools", folder), ("plain", made.family.adapters[0].path)):
                await service.adapters.add(name, path, trusted=True)
            for model in ("tools*0.7+plain*0.3", "plain+tools", "tools*0.5", "base:tools*2"):
                with pytest.raises(InvalidRequest, match="`tools@1` has tokens that the base does not have") as error:
                    await service.generate(Ask(model, "hi", GREEDY))
                assert (error.value.hint, error.value.param) == ("Ask for `tools` alone", "model")
            formed = dataclasses.replace(GREEDY, grammar=FORM)
            with pytest.raises(Unsupported, match="cannot be held to a form") as error:
                await service.generate(Ask("tools", "hi", formed))
            assert error.value.param == "response_format"
            assert "Leave out `response_format`" in error.value.hint
            for model, sampling in (("tools", GREEDY), ("plain*0.5", formed), ("base", formed)):
                await (await service.generate(Ask(model, "hi", sampling))).aclose()
            assert not any(state.leases for state in service.residency.states().values())
            with pytest.raises(Conflict, match="other tokens than `tools@1`") as error:
                await service.adapters.add("tools", made.family.adapters[1].path, mode="immediate", trusted=True)
            assert "--mode immediate" in error.value.hint
            assert [each.record.version for each in (await service.adapters.get("tools")).versions] == [1]
            await service.adapters.add("plain", made.family.adapters[1].path, mode="immediate", trusted=True)
            await service.adapters.add("tools", made.family.adapters[1].path, trusted=True)
        finally:
            await service.stop()

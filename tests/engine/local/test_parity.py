"""Promise 1: an adapter answers exactly as PEFT would make it answer, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
import torch

from loradex.core.event import Delta, TokenLogprob
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.sequence import Sequence

from . import tiny
from .tiny import DEVICES, GREEDY, Family, Running, answer

pytestmark = DEVICES


def prompts(count: int) -> list[list[int]]:
    chance = random.Random(7)
    return [[chance.randrange(256) for _ in range(chance.randrange(3, 40))] for _ in range(count)]


def digest(family: Family, adapter: int | None) -> str | None:
    return None if adapter is None else family.adapters[adapter].digest


@pytest.mark.parametrize("name", [*tiny.FAMILIES, *tiny.OTHERS])
async def test_a_mixed_batch_says_what_peft_says_one_by_one(name: str, family, running: Running) -> None:
    made = family(name)
    oracle = made.oracle()
    cases = [(tokens, [None, 0, 1, 2][i % 4]) for i, tokens in enumerate(prompts(8))]
    # Chunks of 24 tokens split the longer prompts, and keep prefills and decodes in one step.
    async with running(made, max_batched_tokens=24) as engine:
        answers = await asyncio.gather(
            *(
                answer(engine, str(i), tokens, digest(made, adapter), GREEDY)
                for i, (tokens, adapter) in enumerate(cases)
            )
        )
    for (tokens, adapter), said in zip(cases, answers, strict=True):
        assert said == oracle.greedy(tokens, said, adapter)
        assert len(said) == 16 or said[-1] == tiny.EOS


@pytest.mark.parametrize("name", [*tiny.FAMILIES, *tiny.OTHERS])
async def test_logits_of_a_mixed_batch_are_those_of_peft(name: str, family, running: Running) -> None:
    made = family(name)
    oracle = made.oracle()
    order = sorted([None, 0, 1, 2], key=lambda adapter: digest(made, adapter) or "")
    cases = list(zip(prompts(4), order, strict=True))
    async with running(made) as engine:
        runner = engine._loop._runner  # the thread is idle: nothing was submitted
        chunks, block = [], 0
        for tokens, adapter in cases:
            blocks = list(range(block, block + 3))
            block += 3
            made_up = Sequence("x", tokens, len(tokens), GREEDY, Mix.of(digest(made, adapter)), blocks=blocks)
            chunks.append(Chunk(made_up, 0, len(tokens), samples=True))
        ours = runner.logits(StepPlan(tuple(chunks))).cpu()
    theirs = torch.stack([oracle.logits(tokens, adapter)[-1] for tokens, adapter in cases])
    # Adapters that changed little would make these tests blind.
    base = torch.stack([oracle.logits(tokens, None)[-1] for tokens, _ in cases])
    assert [bool(moved > 0.1) for moved in (theirs - base).abs().amax(dim=-1)] == [a is not None for _, a in cases]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


MIXES: list[dict[int, float]] = [{0: 0.7, 1: 0.3}, {2: -0.5, 0: 1.0, 1: 0.25}, {1: 2.0}, {0: 1.0, 2: 1.0}]


@pytest.mark.parametrize("name", [*tiny.FAMILIES, *tiny.OTHERS])
async def test_mixes_in_a_mixed_batch_say_what_peft_says_of_their_weighted_sum(
    name: str, family, running: Running
) -> None:
    made = family(name)
    oracle = made.oracle()
    digests = [adapter.digest for adapter in made.adapters]
    mixes = [Mix(tuple((digests[a], weight) for a, weight in members.items())) for members in MIXES]
    mixes = [*mixes, *map(Mix.of, [None, *digests]), *mixes]
    theirs = [*map(oracle.combine, MIXES), None, 0, 1, 2, *map(oracle.combine, MIXES)]
    cases = list(zip(prompts(len(mixes)), mixes, theirs, strict=True))
    async with running(made, max_batched_tokens=24) as engine:
        answers = await asyncio.gather(
            *(answer(engine, str(i), tokens, mix, GREEDY) for i, (tokens, mix, _) in enumerate(cases))
        )
    for (tokens, _, combined), said in zip(cases, answers, strict=True):
        assert said == oracle.greedy(tokens, said, combined)


async def test_logits_of_mixes_are_those_of_peft_weighted_sums(family, running: Running) -> None:
    made = family("llama")
    oracle = made.oracle()
    asked = [{}, *MIXES]
    async with running(made) as engine:
        runner = engine._loop._runner  # the thread is idle: nothing was submitted
        prefill, decode, tokens = [], [], prompts(len(asked))
        for i, (own, members) in enumerate(zip(tokens, asked, strict=True)):
            mix = Mix(tuple((made.adapters[a].digest, weight) for a, weight in members.items()))
            row = Sequence("x", own, len(own), GREEDY, mix, blocks=list(range(3 * i, 3 * i + 3)))
            prefill.append(Chunk(row, 0, len(own), samples=True))
            decode.append(Chunk(row, len(own) - 1, 1, samples=True))
        ours = [runner.logits(StepPlan(tuple(chunks))).cpu() for chunks in (prefill, decode)]
    theirs = [oracle.logits(own, oracle.combine(m) if m else None)[-1] for own, m in zip(tokens, asked, strict=True)]
    for path in ours:
        torch.testing.assert_close(path, torch.stack(theirs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
async def test_alone_or_in_a_busy_batch_is_the_same(name: str, family, running: Running) -> None:
    made = family(name)
    cases = [(tokens, [None, 0, 1, 2][i % 4]) for i, tokens in enumerate(prompts(12))]
    sampled = Sampling(temperature=0.9, top_p=0.95, seed=11, max_tokens=12)

    def ask(engine: LocalEngine, i: int, run: str):
        return answer(engine, f"{run}-{i}", cases[i][0], digest(made, cases[i][1]), sampled if i % 2 else GREEDY)

    async with running(made, prefix_cache=False) as engine:
        alone = [await ask(engine, i, "alone") for i in range(len(cases))]
    # So few blocks that sequences are preempted and computed again.
    async with running(made, max_batched_tokens=16, kv_cache_memory=12 * 16 * 512) as engine:
        busy = await asyncio.gather(*(ask(engine, i, "busy") for i in range(len(cases))))
        again = await asyncio.gather(*(ask(engine, i, "again") for i in range(len(cases))))
        stats = engine.stats()
    assert busy == alone
    assert again == alone
    assert stats.preemptions > 0
    assert stats.blocks_free == stats.blocks_total


@pytest.mark.parametrize("name", ["llama", "gemma2"])
async def test_prompts_are_as_likely_as_peft_says_beside_answers(name: str, family, running: Running) -> None:
    made = family(name)
    oracle = made.oracle()
    cases = [(tokens, [None, 0, 1, 2][i % 4], [0, 5, None][i % 3]) for i, tokens in enumerate(prompts(12))]

    async def ask(engine: LocalEngine, i: int) -> tuple[TokenLogprob, ...]:
        tokens, adapter, scored_from = cases[i]
        mix = Mix.of(digest(made, adapter))
        ranked = replace(GREEDY, prompt_logprobs=3 if i % 2 else None)
        request = GenerateRequest(str(i), tuple(tokens), ranked, mix, scored_from=scored_from)
        first, *others = [event async for event in engine.generate(request)]
        assert isinstance(first, Delta)
        assert not any(event.prompt_logprobs for event in others if isinstance(event, Delta))
        return first.prompt_logprobs

    # Few blocks: sequences are preempted and computed again, and no token may be told twice.
    async with running(made, max_batched_tokens=16, kv_cache_memory=12 * 16 * 512) as engine:
        told = await asyncio.gather(*(ask(engine, i) for i in range(len(cases))))
        again = await ask(engine, 0)  # whose start lies in the prefix cache by now
        assert engine.stats().preemptions > 0
    for i, ours in enumerate([*told, again]):
        tokens, adapter, scored_from = cases[i % len(cases)]
        first = len(tokens) if scored_from is None else max(1, scored_from)
        assert [each.token_id for each in ours] == tokens[first:]
        likely = torch.log_softmax(oracle.logits(tokens, adapter), dim=-1)[first - 1 : -1]
        theirs = [float(row[token]) for row, token in zip(likely, tokens[first:], strict=True)]
        assert [each.logprob for each in ours] == pytest.approx(theirs, abs=1e-4)
        for each, row in zip(ours, likely, strict=True) if i % 2 else ():
            assert [top.logprob for top in each.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
            beyond = int((row >= each.logprob + 1e-4).sum()), int((row >= each.logprob - 1e-4).sum())
            assert beyond[0] <= each.rank <= beyond[1]


async def test_a_long_answer_goes_on_past_the_sliding_window(family, running: Running) -> None:
    made = family("mistral")
    sampling = Sampling(temperature=0.0, max_tokens=60, ignore_eos=True)
    tokens = prompts(1)[0]
    async with running(made) as engine:
        said = await answer(engine, "x", tokens, made.adapters[2].digest, sampling)
    assert len(said) == 60
    assert said == made.oracle().greedy(tokens, said, 2)

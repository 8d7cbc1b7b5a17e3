"""What every engine's answers keep to."""

from __future__ import annotations

import asyncio

import pytest

from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
from loradex.errors import InvalidRequest, LoradexError

from .asking import PROMPT, begin, close, endless, idle, until, whole
from .conftest import Save, Start


async def test_it_tells_what_its_model_is(engine: Engine) -> None:
    info = engine.info
    assert info.id
    assert info.vocab_size > 0
    assert info.max_model_len >= 128
    assert len(info.digest) == 64
    assert any(name.endswith("q_proj") for name in info.linears)


async def test_text_becomes_tokens_and_text_again(engine: Engine) -> None:
    tokens = engine.encode(PROMPT)
    assert all(0 <= token < engine.info.vocab_size for token in tokens)
    assert PROMPT in engine.decode(tokens)
    assert engine.encode(tokens) == tokens


async def test_tokens_outside_the_vocabulary_are_refused(engine: Engine) -> None:
    for token in (-1, engine.info.vocab_size):
        with pytest.raises(InvalidRequest):
            engine.encode((token,))


async def test_an_answer_is_pieces_and_one_end(engine: Engine) -> None:
    answer = await whole(begin(engine, ignore_eos=True))
    assert len(answer.tokens) == answer.end.completion_tokens == 12
    assert (answer.end.reason, answer.end.stop_reason) == ("length", None)
    assert answer.end.prompt_tokens == len(engine.encode(PROMPT))
    assert answer.end.mix == Mix()
    assert answer.end.queue_seconds >= 0


async def test_greedy_answers_do_not_depend_on_the_company(engine: Engine) -> None:
    alone = await whole(begin(engine))
    together = await asyncio.gather(*(whole(begin(engine, prompt=p)) for p in (PROMPT, "other", PROMPT, "third one")))
    assert together[0].tokens == together[2].tokens == alone.tokens
    assert together[0].text == alone.text


async def test_more_requests_than_fit_one_step_all_end(start: Start) -> None:
    engine = await start(max_num_seqs=2)
    answers = await asyncio.gather(*(whole(begin(engine, ignore_eos=True)) for _ in range(7)))
    assert {answer.end.completion_tokens for answer in answers} == {12}
    await until(lambda: idle(engine))


async def test_requests_of_a_lower_priority_number_are_admitted_first(start: Start) -> None:
    engine = await start(max_num_seqs=1)
    order: list[int] = []

    async def ask(priority: int) -> None:
        wanted = Sampling(temperature=0.0, max_tokens=6, ignore_eos=True)
        request = GenerateRequest(f"p{priority}", engine.encode(PROMPT), wanted, priority=priority)
        await whole(engine.generate(request))
        order.append(priority)

    running = asyncio.create_task(whole(endless(engine)))
    await until(lambda: engine.stats().running == 1)
    tasks = [asyncio.create_task(ask(priority)) for priority in (2, -1, 0)]
    await asyncio.gather(running, *tasks)
    assert order == [-1, 0, 2]


async def test_a_stop_string_ends_the_answer(engine: Engine) -> None:
    full = (await whole(begin(engine, ignore_eos=True))).text
    stop = full[4:6]
    at = full.index(stop)
    cut = await whole(begin(engine, ignore_eos=True, stop=(stop,)))
    assert (cut.text, cut.end.reason, cut.end.stop_reason) == (full[:at], "stop", stop)
    kept = await whole(begin(engine, ignore_eos=True, stop=(stop,), include_stop=True))
    assert kept.text == full[: at + len(stop)]


async def test_a_stop_token_ends_the_answer(engine: Engine) -> None:
    tokens = (await whole(begin(engine, ignore_eos=True))).tokens
    stop = tokens[5]
    cut = await whole(begin(engine, ignore_eos=True, stop_token_ids=(stop,)))
    assert cut.tokens == tokens[: tokens.index(stop) + 1]
    assert (cut.end.reason, cut.end.stop_reason) == ("stop", stop)


async def test_min_tokens_hold_a_stop_back(engine: Engine) -> None:
    first = (await whole(begin(engine))).tokens[0]
    answer = await whole(begin(engine, stop_token_ids=(first,), min_tokens=6, max_tokens=6, ignore_eos=True))
    assert answer.end.completion_tokens == 6


async def test_log_probabilities_come_one_a_token(engine: Engine) -> None:
    answer = await whole(begin(engine, logprobs=3, ignore_eos=True))
    assert [each.token_id for each in answer.logprobs] == list(answer.tokens)
    for each in answer.logprobs:
        assert each.logprob <= 0
        assert len(each.top) == 3
        assert [other.logprob for other in each.top] == sorted((other.logprob for other in each.top), reverse=True)
    assert not (await whole(begin(engine))).logprobs


async def test_closing_the_iterator_frees_everything(engine: Engine) -> None:
    events = endless(engine)
    await anext(events)
    await close(events)
    await until(lambda: idle(engine))


async def test_cancelling_the_reader_frees_everything(start: Start) -> None:
    engine = await start(max_num_seqs=1)
    tasks = [asyncio.create_task(whole(endless(engine))) for _ in range(3)]
    await until(lambda: engine.stats().running == 1 and engine.stats().waiting == 2)
    for task in reversed(tasks):
        task.cancel()
    await asyncio.wait(tasks)
    await until(lambda: idle(engine))


async def test_weights_that_are_not_resident_never_become_the_base(engine: Engine, save: Save) -> None:
    with pytest.raises(LoradexError):
        await whole(begin(engine, save(engine, 1).digest))
    await until(lambda: idle(engine))


async def test_scored_tokens_of_the_prompt_are_told_with_the_first_piece(start: Start, save: Save) -> None:
    engine = await start(max_loras=2)
    adapter = save(engine, 0)
    await engine.load(adapter)
    tokens = engine.encode("what is likely here, and what is not?")
    wanted = Sampling(temperature=0.0, max_tokens=2, ignore_eos=True)

    def ask(mix: Mix[str], scored_from: int | None) -> GenerateRequest:
        return GenerateRequest(f"s{scored_from}", tokens, wanted, mix, scored_from=scored_from)

    own = Mix.of(adapter.digest)
    asked = [(Mix(), 0), (own, 0), (Mix(), 7), (own, 7), (own, None), (own, len(tokens))]
    together = await asyncio.gather(*(whole(engine.generate(ask(*each))) for each in asked))
    base, adapted, base_end, adapted_end, none, empty = (answer.prompt_logprobs for answer in together)
    assert [each.token_id for each in base] == list(tokens[1:])
    assert all(each.logprob < 0 for each in base)
    assert [each.token_id for each in base_end] == list(tokens[7:])
    for part, all_of_it in ((base_end, base), (adapted_end, adapted)):
        assert [each.logprob for each in part] == pytest.approx([each.logprob for each in all_of_it[6:]], abs=1e-4)
    assert (none, empty) == ((), ())
    assert together[1].tokens == together[3].tokens == together[4].tokens


async def test_an_embedded_prompt_has_a_vector(engine: Engine) -> None:
    def ask(text: str) -> GenerateRequest:
        return GenerateRequest(text, engine.encode(text), Sampling(temperature=0.0, max_tokens=1), embedded=True)

    texts = ("a cat and a dog", "a contract", "a cat and a dog")
    one, other, again = [
        answer.end.embedding for answer in await asyncio.gather(*(whole(engine.generate(ask(each))) for each in texts))
    ]
    assert len(one) == len(other) > 8
    assert one == pytest.approx(again, abs=1e-4)
    assert one != pytest.approx(other, abs=1e-2)

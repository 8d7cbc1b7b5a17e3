"""The engine as the service sees it: answers, cancellation, residency, switching, failures."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from loradex.core.event import Delta, Finished
from loradex.core.mix import Mix
from loradex.core.prompt import ChatPrompt, Message
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.text import Detokenizer
from loradex.errors import (
    AdapterDamaged,
    ConfigInvalid,
    Conflict,
    EngineFailed,
    EngineStopped,
    InvalidRequest,
    Overloaded,
)

from . import tiny
from .tiny import Family, Running

PROMPT = tuple(b"one base, many adapters, one batch")


@pytest.fixture
def llama(family) -> Family:
    return family("llama")


async def collect(
    engine: LocalEngine, adapter: str | None = None, **sampling: object
) -> tuple[str, list[int], Finished]:
    text, tokens = "", []
    wanted = Sampling(**({"temperature": 0.0, "max_tokens": 8} | sampling))
    async for event in engine.generate(GenerateRequest("r", PROMPT, wanted, Mix.of(adapter))):
        if isinstance(event, Finished):
            return text, tokens, event
        text += event.text
        tokens += event.token_ids
    raise AssertionError("no end")


async def drain(engine: LocalEngine, request: GenerateRequest) -> None:
    async for _ in engine.generate(request):
        pass


async def until(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


async def test_how_answers_end(llama, running: Running) -> None:
    async with running(llama) as engine:
        _, tokens, end = await collect(engine, ignore_eos=True)
        assert (end.reason, end.completion_tokens, len(tokens)) == ("length", 8, 8)
        _, again, end = await collect(engine, ignore_eos=True, stop_token_ids=(tokens[3],))
        assert (end.reason, end.stop_reason) == ("stop", tokens[3])
        assert again == tokens[: tokens.index(tokens[3]) + 1]
        _, most, end = await collect(engine, ignore_eos=True, stop_token_ids=(tokens[0],), min_tokens=5)
        assert len(most) >= 5
        _, biased, end = await collect(engine, logit_bias={tiny.EOS: 100.0})
        assert (biased, end.reason, end.stop_reason) == ([tiny.EOS], "stop", None)


async def test_stop_strings_cut_the_text(llama, running: Running) -> None:
    async with running(llama) as engine:
        # Bias towards the letters a, b, c so that the text is plain; no penalty would make it one letter only.
        letters = {97: 60.0, 98: 60.0, 99: 60.0}
        text, _, _ = await collect(engine, logit_bias=letters, max_tokens=20, temperature=1.0, seed=3)
        assert set(text) <= set("abc")
        assert len(text) == 20
        stop = text[5:8]
        cut, _, end = await collect(engine, logit_bias=letters, max_tokens=20, temperature=1.0, seed=3, stop=(stop,))
        assert (cut, end.reason, end.stop_reason) == (text[: text.index(stop)], "stop", stop)


async def test_logprobs_sum_up(llama, running: Running) -> None:
    async with running(llama) as engine:
        request = GenerateRequest("r", PROMPT, Sampling(temperature=0.0, max_tokens=3, logprobs=5, ignore_eos=True))
        deltas = [event async for event in engine.generate(request) if isinstance(event, Delta)]
    for delta in deltas:
        (entry,) = delta.logprobs
        assert entry.token_id == delta.token_ids[0]
        assert len(entry.top) == 5
        assert entry.top[0].logprob == pytest.approx(entry.logprob)
        assert [t.logprob for t in entry.top] == sorted((t.logprob for t in entry.top), reverse=True)


async def test_closing_the_iterator_frees_everything(llama, running: Running) -> None:
    async with running(llama) as engine:
        endless = Sampling(temperature=0.0, max_tokens=200, ignore_eos=True)
        stream = engine.generate(GenerateRequest("r", PROMPT, endless, Mix.of(llama.adapters[0].digest)))
        await anext(stream)
        with pytest.raises(Conflict):
            await engine.unload(llama.adapters[0].digest)
        await stream.aclose()
        await until(lambda: engine.stats().running == 0)
        assert engine.stats().blocks_free == engine.stats().blocks_total
        await engine.unload(llama.adapters[0].digest)
        assert llama.adapters[0].digest not in {resident.digest for resident in engine.resident()}


async def test_equal_request_ids_do_not_meet(llama, running: Running) -> None:
    async with running(llama) as engine:
        one, other = await asyncio.gather(collect(engine), collect(engine, llama.adapters[0].digest))
        assert one[1] == (await collect(engine))[1]
        assert other[1] == (await collect(engine, llama.adapters[0].digest))[1]


async def test_the_prefix_cache_speaks_for_its_own_weights_only(llama, running: Running) -> None:
    first, second = (adapter.digest for adapter in llama.adapters[:2])
    async with running(llama) as engine:
        cold = [(await collect(engine, adapter)) for adapter in (None, first, second)]
        warm = [(await collect(engine, adapter)) for adapter in (None, first, second)]
    assert [end.cached_tokens for _, _, end in cold] == [0, 0, 0]
    assert [end.cached_tokens for _, _, end in warm] == [32, 32, 32]
    assert [tokens for _, tokens, _ in warm] == [tokens for _, tokens, _ in cold]


async def test_a_switch_moves_running_answers_and_their_blocks_are_not_shared(llama, running: Running) -> None:
    old, new = llama.adapters[0].digest, llama.adapters[2].digest
    async with running(llama) as engine:
        alone = await collect(engine, new, max_tokens=40, ignore_eos=True)
        endless = Sampling(temperature=0.0, max_tokens=150, ignore_eos=True)
        stream = engine.generate(GenerateRequest("r", PROMPT, endless, Mix.of(old)))
        await anext(stream)
        assert await engine.switch(old, new) == 1
        await engine.unload(old)
        events = [event async for event in stream]
        assert isinstance(events[-1], Finished)
        assert events[-1].mix == Mix.of(new)
        again = await collect(engine, new, max_tokens=40, ignore_eos=True)
    assert again[1] == alone[1]


async def test_a_full_deck_is_overloaded_and_loading_twice_is_nothing(llama, running: Running) -> None:
    async with running(llama, max_loras=2) as engine:
        await engine.load(llama.adapters[0])
        with pytest.raises(Overloaded, match="2 adapter slots"):
            await engine.load(llama.adapters[2])
        await engine.unload(llama.adapters[0].digest)
        report = await engine.load(llama.adapters[2])
        assert report.bytes > 0
        assert [resident.slot for resident in engine.resident()] == [0, 1]


async def test_missing_files_are_told_and_change_nothing(llama, running: Running, tmp_path: Path) -> None:
    shutil.copytree(llama.adapters[2].path, tmp_path / "a")
    lost = dataclasses.replace(llama.adapters[2], path=tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    async with running(llama, max_loras=2) as engine:
        await engine.unload(llama.adapters[1].digest)
        with pytest.raises(AdapterDamaged):
            await engine.load(lost)
        assert len(engine.resident()) == 1
        assert (await collect(engine))[1]


async def test_damaged_weights_spoil_only_their_own_answers(llama, running: Running) -> None:
    async with running(llama) as engine:
        good = await collect(engine)
        runner = engine._loop._runner
        pair = runner.model.linears["model.layers.0.self_attn.q_proj"].table[0]
        pair.a.fill_(float("nan"))
        bad, fine = await asyncio.gather(
            collect(engine, llama.adapters[0].digest), collect(engine), return_exceptions=True
        )
        assert isinstance(bad, EngineFailed)
        assert fine[1] == good[1]


async def test_what_a_bad_answer_left_in_the_cache_is_not_looked_at(llama, running: Running) -> None:
    async with running(llama) as engine:
        engine._loop._runner.model.linears["model.layers.0.self_attn.q_proj"].table[0].a.fill_(float("nan"))
        with pytest.raises(EngineFailed):
            await collect(engine, llama.adapters[0].digest)
        assert engine._model.attention.cache._keys[1][0].isnan().any()
        # These differ in length, so the shorter one is padded; the first cell of the cache would be at hand.
        sampling = Sampling(max_tokens=8)
        await asyncio.gather(
            *(drain(engine, GenerateRequest(str(n), PROMPT[:n], sampling)) for n in (5, len(PROMPT), 20))
        )


async def test_a_step_that_breaks_fails_its_answers_and_not_the_engine(llama, running: Running) -> None:
    async with running(llama) as engine:
        head = engine._model.module.lm_head
        weight = head.weight
        head.weight = torch.nn.Parameter(weight[:, :10])
        with pytest.raises(EngineFailed):
            await collect(engine)
        head.weight = weight
        assert (await collect(engine))[1]
        assert engine.stats().blocks_free == engine.stats().blocks_total


async def test_a_loop_that_breaks_leaves_nobody_waiting(llama, running: Running, monkeypatch) -> None:
    async with running(llama) as engine:
        endless = Sampling(temperature=0.0, max_tokens=200, ignore_eos=True)
        stream = engine.generate(GenerateRequest("r", PROMPT, endless))
        await anext(stream)
        monkeypatch.setattr(engine._loop._scheduler, "plan", lambda: 1 / 0)
        with pytest.raises(EngineFailed, match="division by zero"):
            async for _ in stream:
                pass
        await until(lambda: not engine._loop.alive)
        with pytest.raises(EngineStopped):
            engine.stats()


async def test_a_message_that_breaks_the_loop_is_answered(llama, running: Running, monkeypatch) -> None:
    async with running(llama, max_loras=2) as engine:
        monkeypatch.setattr(engine._loop._runner, "remove", lambda digest: 1 / 0)
        with pytest.raises(EngineFailed, match="division by zero"):
            await asyncio.wait_for(engine.unload(llama.adapters[0].digest), 30)
        await until(lambda: not engine._loop.alive)


async def test_a_request_that_comes_as_the_loop_ends_is_told_so(llama, running: Running) -> None:
    async with running(llama) as engine:
        loop = engine._loop
        loop._inbox.put((loop._stop, None))
        with pytest.raises(EngineStopped):
            await asyncio.wait_for(drain(engine, GenerateRequest("r", PROMPT, Sampling(max_tokens=5))), 30)
        # What reaches the inbox after its last look is taken in all the same.
        await until(lambda: not loop.alive)
        told = []
        loop._post = told.extend
        loop._jobs.clear()
        loop._inbox.put((lambda: loop._jobs.update(late=None), None))
        loop._take_rest()
        loop._dismiss(EngineStopped("over"))
        assert [key for key, _ in told] == ["late"]


async def test_a_load_that_nobody_waits_for_any_more_harms_nothing(llama, running: Running) -> None:
    async with running(llama, max_loras=3) as engine:
        await engine.unload(llama.adapters[2].digest)
        for pause in range(20):
            load = asyncio.create_task(engine.load(llama.adapters[2]))
            for _ in range(pause):
                await asyncio.sleep(0)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        await engine.load(llama.adapters[2])
        assert (await collect(engine, llama.adapters[2].digest))[1]


async def test_stopping_tells_those_who_wait(llama, running: Running) -> None:
    async with running(llama) as engine:
        endless = Sampling(temperature=0.0, max_tokens=200, ignore_eos=True)
        stream = engine.generate(GenerateRequest("r", PROMPT, endless))
        await anext(stream)
        await engine.stop()
        with pytest.raises(EngineStopped):
            async for _ in stream:
                pass
        with pytest.raises(EngineStopped):
            engine.stats()


async def test_text_and_tokens(llama, running: Running) -> None:
    async with running(llama) as engine:
        assert engine.encode("abc") == engine.encode(engine.encode("abc"))
        chat = ChatPrompt((Message("user", "hi"),))
        assert engine.decode(engine.encode(chat)) == "user: hi\nassistant:"
        with pytest.raises(InvalidRequest, match="token id 320"):
            engine.encode((1, 320))
        with pytest.raises(InvalidRequest):
            engine.encode(dataclasses.replace(chat, template="{{ raise_exception('no') }}"))
        assert engine.encode("\ud800")


async def test_half_a_character_is_not_shown_until_it_is_whole(llama, running: Running) -> None:
    async with running(llama) as engine:
        euro = engine.encode("€")
        assert len(euro) == 3
        for prompt in (PROMPT, (*PROMPT, euro[0]), ()):
            stream = Detokenizer(engine._texts.base, prompt, skip_special_tokens=True)
            assert [stream.push(token) for token in (*euro, *b"!")] == ["", "", "€", "!"]
        assert engine._texts.base.piece(euro[0]) == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "/nowhere/at-all"}, "neither a folder nor a repository"),
        ({"max_model_len": 100_000}, "own limit is 256"),
        ({"max_model_len": 256, "kv_cache_memory": 10_000}, "kv_cache_memory"),
        ({"device": "cuda:99"}, "No device"),
    ],
)
async def test_wrong_settings_are_refused_with_the_fix(llama, settings: dict[str, object], said: str) -> None:
    engine = LocalEngine(EngineConfig(**({"model": str(llama.base)} | settings)))
    with pytest.raises(ConfigInvalid, match=said) as caught:
        await engine.start()
    assert caught.value.hint


async def test_a_device_without_room_for_an_adapter_is_busy_not_broken(llama, running, monkeypatch) -> None:
    async with running(dataclasses.replace(llama, adapters=())) as engine:
        # A card's memory is the one thing that the host cannot run out of.
        monkeypatch.setattr(engine._loader, "read", fail_for_want_of_memory)
        with pytest.raises(Overloaded, match="no memory"):
            await engine.load(llama.adapters[0])
        monkeypatch.undo()
        await engine.load(llama.adapters[0])
    monkeypatch.setattr("loradex.engine.local.engine.KVCache", fail_for_want_of_memory)
    with pytest.raises(ConfigInvalid, match="does not hold"):
        await LocalEngine(EngineConfig(model=str(llama.base))).start()


def fail_for_want_of_memory(*args: object) -> None:
    raise torch.OutOfMemoryError("tried to allocate more than there is")


async def test_an_architecture_that_would_answer_wrongly_is_refused(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    import loradex.engine.local.attention as attention

    right = attention._causal
    # An engine that forgets the scale stands for any difference that only numbers show.
    monkeypatch.setattr(attention, "_causal", lambda q, k, v, offset, s, w, c: right(q, k, v, offset, 1.0, w, c))
    with pytest.raises(ConfigInvalid, match="other logits"):
        await LocalEngine(EngineConfig(model=str(llama.base))).start()

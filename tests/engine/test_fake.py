from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loradex.adapters.adapter import Adapter
from loradex.core.event import Delta, Finished
from loradex.core.mix import Mix
from loradex.core.prompt import ChatPrompt, Message
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.errors import EngineFailed, InvalidRequest

A, B = "a" * 64, "b" * 64


@pytest.fixture
def adapters(tmp_path: Path) -> list[Adapter]:
    (tmp_path / "adapter_model.safetensors").touch()
    return [Adapter(digest, tmp_path, {}, 4, 10, 100, None) for digest in (A, B)]


async def started(**settings: object) -> FakeEngine:
    engine = FakeEngine(EngineConfig(**settings))  # type: ignore[arg-type]
    await engine.start()
    return engine


async def answer(
    engine: FakeEngine, prompt: str, adapter: str | None = None, **sampling: object
) -> tuple[str, Finished]:
    text, end = "", None
    wanted = Sampling(**({"max_tokens": 100} | sampling))  # type: ignore[arg-type]
    async for event in engine.generate(GenerateRequest("r", engine.encode(prompt), wanted, Mix.of(adapter))):
        if isinstance(event, Delta):
            text += event.text
        else:
            end = event
    assert end is not None
    return text, end


async def test_it_echoes_the_prompt_under_the_name_of_its_weights(adapters: list[Adapter]) -> None:
    engine = await started()
    await engine.load(adapters[0])
    assert (await answer(engine, "héllo ✓"))[0] == "base: héllo ✓"
    text, end = await answer(engine, "hello", A)
    assert (text, end.reason, end.completion_tokens) == ("aaaaaaaa: hello", "stop", 16)


@pytest.mark.parametrize(
    ("sampling", "said", "reason", "stop_reason"),
    [
        ({"max_tokens": 4}, "base", "length", None),
        ({"stop": (": h",)}, "base", "stop", ": h"),
        ({"stop": ("xx", "lo", "llo")}, "base: he", "stop", "llo"),
        ({"stop": (": hex",)}, "base: hello", "stop", None),
        ({"stop": ("e",), "min_tokens": 5}, "base: h", "stop", "e"),
        ({"stop_token_ids": (ord("e"),)}, "bas", "stop", ord("e")),
        ({"stop_token_ids": (ord("e"),), "include_stop": True}, "base", "stop", ord("e")),
        ({"ignore_eos": True, "max_tokens": 20}, "base: hello\nbase: he", "length", None),
        ({"min_tokens": 14}, "base: hello\nbase: hello", "stop", None),
        ({"skip_special_tokens": False}, "base: hello<eos>", "stop", None),
    ],
)
async def test_what_ends_an_answer(
    sampling: dict[str, object], said: str, reason: str, stop_reason: int | str | None
) -> None:
    text, end = await answer(await started(), "hello", **sampling)
    assert (text, end.reason, end.stop_reason) == (said, reason, stop_reason)


@pytest.mark.parametrize(
    ("read", "text"),
    [(0, "bbbbbbbb: hello"), (3, "aaa|bbbbbbbb: hello"), (12, "aaaaaaaa: he|bbbbbbbb: llo")],
)
async def test_a_switch_can_be_read_in_the_answer(adapters: list[Adapter], read: int, text: str) -> None:
    engine = await started(max_num_seqs=1)
    for adapter in adapters:
        await engine.load(adapter)
    request = GenerateRequest("r", engine.encode("hello"), Sampling(max_tokens=100), Mix.of(A))
    events = engine.generate(request)
    said = ""
    if read:
        said = "".join([(await anext(events)).text for _ in range(read)])  # type: ignore[union-attr]
        assert await engine.switch(A, B) == 1
    else:
        blocker = engine.generate(GenerateRequest("b", (65,), Sampling(max_tokens=100)))
        await anext(blocker)
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        assert await engine.switch(A, B) == 1
        await blocker.aclose()  # type: ignore[attr-defined]
        said = (await first).text  # type: ignore[union-attr]
    assert said + "".join([event.text async for event in events if isinstance(event, Delta)]) == text


async def test_conversations_are_lines(adapters: list[Adapter]) -> None:
    engine = await started()
    messages = (Message("user", "hi"), Message("assistant", "yes"))
    assert engine.decode(engine.encode(ChatPrompt(messages))) == "user: hi\nassistant: yes\nassistant: "
    open_end = ChatPrompt(messages, add_generation_prompt=False, continue_final_message=True)
    assert engine.decode(engine.encode(open_end)) == "user: hi\nassistant: yes"
    for bad in (ChatPrompt(()), ChatPrompt(messages, template="{{ x }}")):
        with pytest.raises(InvalidRequest):
            engine.encode(bad)


async def test_knobs_break_what_they_name(adapters: list[Adapter]) -> None:
    engine = FakeEngine(EngineConfig(), fail_load={A}, fail_unload={B}, fail_answer={B}, fail_switch=True)
    await engine.start()
    with pytest.raises(EngineFailed):
        await engine.load(adapters[0])
    await engine.load(adapters[1])
    with pytest.raises(EngineFailed):
        await answer(engine, "hello", B)
    with pytest.raises(EngineFailed):
        await engine.unload(B)
    with pytest.raises(EngineFailed):
        await engine.switch(B, B)
    assert [resident.digest for resident in engine.resident()] == [B]


async def test_its_speed_can_be_set() -> None:
    engine = FakeEngine(EngineConfig(), tokens_per_second=1000)
    await engine.start()
    began = asyncio.get_running_loop().time()
    await answer(engine, "hello", max_tokens=10)
    assert asyncio.get_running_loop().time() - began >= 0.009

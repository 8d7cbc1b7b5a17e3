from __future__ import annotations

import json
from typing import Any

import pytest

from loradex.core.defaults import Defaults
from loradex.core.event import Delta
from loradex.core.mix import Mix
from loradex.core.prompt import ChatPrompt, Message
from loradex.core.sampling import Sampling
from loradex.errors import AdapterNotFound, FilesNotFound
from loradex.service.ask import Ask
from tests.service.deck import Deck, until

ONE = Defaults(system="Be one.", sampling={"max_tokens": 90, "temperature": 0.5})
TWO = Defaults(system="Be two.")
CHAT = ChatPrompt((Message("user", "hi"),))
PLAIN = Sampling()


async def say(deck: Deck, model: str, prompt: Any = CHAT, sampling: Sampling = PLAIN, **more: Any) -> str:
    """Return an answer without its label: the fake engine says the prompt."""
    answer = await deck.service.generate(Ask(model, prompt, sampling, **more))
    text = "".join([event.text async for _, event in answer.events() if isinstance(event, Delta)])
    return text.partition(": ")[2]


async def sampled(deck: Deck, model: str, sampling: Sampling = PLAIN, **more: Any) -> Sampling:
    answer = await deck.service.generate(Ask(model, "hello", sampling, **more))
    await answer.aclose()
    return answer.requests[0].sampling


async def test_requests_get_what_they_leave_out(deck: Deck) -> None:
    await deck.add("medical", 1, defaults=ONE)
    assert await say(deck, "medical") == "system: Be one.\nuser: hi\nassistant: "
    own = ChatPrompt((Message("system", "Be mine."), *CHAT.messages))
    assert await say(deck, "medical", own) == "system: Be mine.\nuser: hi\nassistant: "
    assert await say(deck, "medical", "hi") == "hi"
    for model in ("base", "legal*0.5+medical*0.5"):
        if model != "base":
            await deck.add("legal", 2, defaults=TWO)
        assert await say(deck, model) == "user: hi\nassistant: "


async def test_what_a_request_gives_wins(deck: Deck) -> None:
    await deck.add("medical", 1, defaults=ONE)
    found = await sampled(deck, "medical")
    assert (found.temperature, found.max_tokens) == (0.5, 90)
    found = await sampled(deck, "medical", Sampling(temperature=0.0))  # in Python: what is not as it begins
    assert (found.temperature, found.max_tokens) == (0.0, 90)
    found = await sampled(deck, "medical", Sampling(max_tokens=7), given=frozenset({"temperature"}))
    assert (found.temperature, found.max_tokens) == (1.0, 90)


async def test_each_version_has_its_own_in_canaries_and_rollbacks(deck: Deck) -> None:
    first = await deck.add("medical", 1, defaults=ONE)
    second = await deck.add("medical", 2, defaults=TWO, canary=50)
    said = {}
    for _ in range(8):
        answer = await deck.service.generate(Ask("medical", CHAT, Sampling()))
        said[answer.mix.adapters[0].digest] = deck.engine.decode(answer.prompt_tokens)
        await answer.aclose()
    assert said[first].startswith("system: Be one.")
    assert said[second].startswith("system: Be two.")
    await deck.service.adapters.promote("medical", 2)
    assert "Be two." in await say(deck, "medical")
    await deck.service.adapters.rollback("medical")
    assert "Be one." in await say(deck, "medical")


async def test_a_shadow_answers_with_its_own(deck: Deck) -> None:
    await deck.add("medical", 1, defaults=ONE)
    await deck.add("medical", 2, defaults=TWO, canary=0)
    await deck.service.rollout.shadow("medical", 2)
    await say(deck, "medical")
    path = deck.registry.home / "shadows" / "medical.jsonl"
    await until(path.exists)
    entry = json.loads(path.read_text())
    assert entry["answer"]["prompt"].startswith("system: Be one.\nuser: hi")
    assert entry["shadow"]["prompt"].startswith("system: Be two.\nuser: hi")
    assert "Be two." in entry["shadow"]["text"]


async def test_they_are_set_at_once(deck: Deck) -> None:
    await deck.add("medical", 1)
    await deck.add("medical", 2)
    assert "system" not in await say(deck, "medical")
    await deck.service.adapters.configure("medical", TWO, actor="ada")
    assert "Be two." in await say(deck, "medical")
    assert "system" not in await say(deck, "medical@1")
    await deck.service.adapters.configure("medical", ONE, 1)
    assert "Be one." in await say(deck, "medical@1")
    with pytest.raises(AdapterNotFound):
        await deck.service.adapters.configure("medical", ONE, 9)
    with pytest.raises(FilesNotFound):
        await deck.service.adapters.add("medical", deck.folder / "nothing", defaults=ONE)
    assert "Be two." in await say(deck, "medical")


async def test_a_version_that_is_resolved_again_brings_its_own(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version goes between the look-up and the lease: the request is rendered for the one that answers."""
    await deck.add("medical", 1, defaults=ONE)
    acquire = deck.service._generator._mixing.acquire
    calls = 0

    async def late(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            await deck.add("medical", 2, defaults=TWO)
            await deck.service.adapters.remove_alias("medical", "default")
            await deck.service.adapters.remove("medical", 1)
        return await acquire(*given)

    monkeypatch.setattr(deck.service._generator._mixing, "acquire", late)
    answer = await deck.service.generate(Ask("medical", CHAT, Sampling()))
    assert answer.mix == Mix.of(answer.mix.adapters[0])
    assert answer.mix.adapters[0].version == 2
    assert deck.engine.decode(answer.prompt_tokens).startswith("system: Be two.")
    await answer.aclose()

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loradex.core.adapter import Reference
from loradex.registry.registry import Registry
from loradex.service.names import FRESH_SECONDS

from .conftest import MakeDeck


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_what_is_resolved_is_remembered_until_a_verb(
    make_deck: MakeDeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    deck = await make_deck(clock=Watch())
    await deck.add("medical", 1)
    queries: list[str] = []
    meaning = deck.registry.meaning
    monkeypatch.setattr(
        deck.registry, "meaning", lambda reference, base: (queries.append(str(reference)), meaning(reference, base))[1]
    )
    for _ in range(3):
        await deck.text("medical")
    assert queries == ["medical"]
    second = await deck.add("medical", 2)
    queries.clear()
    assert (await deck.text("medical")).startswith(second[:8])
    assert queries == ["medical"]


async def test_another_process_is_seen_after_a_while(make_deck: MakeDeck, tmp_path: Path) -> None:
    watch = Watch()
    deck = await make_deck(clock=watch)
    first = await deck.add("medical", 1)
    assert (await deck.text("medical")).startswith(first[:8])
    with Registry(tmp_path / "home") as other:
        staged = other.stage(deck.files(2), deck.engine.info, max_rank=8)
        second = other.commit("medical", staged, serve=True)
    assert (await deck.text("medical")).startswith(first[:8])
    watch.now += FRESH_SECONDS + 0.1
    assert (await deck.text("medical")).startswith(second.digest[:8])


async def test_a_lookup_that_a_verb_overtook_is_not_remembered(make_deck: MakeDeck) -> None:
    deck = await make_deck()
    await deck.add("medical", 1)
    names = deck.service.adapters._names
    names.forget()
    lookup = asyncio.create_task(names.resolve(Reference("medical")))
    await asyncio.sleep(0)
    names.forget()
    await lookup
    assert names._meanings == {}


async def test_models_are_the_base_and_what_is_enabled(make_deck: MakeDeck) -> None:
    deck = await make_deck()
    for name, seed in (("medical", 1), ("legal", 2), ("medical", 3)):
        await deck.add(name, seed, load=False)
    base, legal, medical = deck.service.models()
    assert (base.id, base.root, base.parent, base.max_model_len, base.ref) == ("tiny", "models/tiny", None, 256, None)
    assert (legal.id, medical.id, medical.parent) == ("legal", "medical", "tiny")
    assert medical.ref is not None
    assert (medical.ref.version, medical.root) == (2, str(deck.files(3)))
    await deck.service.residents.unload("legal", disable=True)
    assert [card.id for card in deck.service.models()] == ["tiny", "medical"]

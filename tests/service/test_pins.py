from __future__ import annotations

import pytest

from loradex.errors import AdapterNotFound, AdapterTooLarge, Conflict

from .conftest import MakeDeck
from .deck import Deck


async def test_a_pinned_adapter_is_loaded_and_never_makes_room(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=2)
    for seed, name in enumerate(("medical", "legal", "poetry"), 1):
        await deck.add(name, seed, load=False)
    change = await deck.service.residents.pin("medical")
    assert deck.resident() == {change.ref.digest}
    for name in ("legal", "poetry", "legal", "poetry"):
        await deck.text(name)
    await deck.settle()
    assert change.ref.digest in deck.resident()
    await deck.service.residents.unpin("medical")
    for name in ("legal", "poetry") * 3:
        await deck.text(name)
    await deck.settle()
    assert change.ref.digest not in deck.resident()


async def test_a_pinned_name_stays_pinned_under_its_next_version_and_a_version_does_not_move(deck: Deck) -> None:
    first = await deck.add("medical", 1)
    await deck.service.residents.pin("medical")
    second = await deck.add("medical", 2)
    await deck.settle()
    assert deck.resident() == {second}
    await deck.service.residents.pin("medical@2")
    third = await deck.add("medical", 3)
    await deck.settle()
    assert deck.resident() == {second, third}
    await deck.service.adapters.rollback("medical")
    await deck.settle()
    assert deck.resident() == {second}
    await deck.service.residents.unpin("medical@2")
    with pytest.raises(Conflict):
        await deck.service.residents.unload("medical")
    await deck.service.residents.unpin("medical")
    await deck.service.residents.unload("medical")
    await deck.settle()
    assert deck.resident() == set()
    assert len({first, second, third}) == 3


async def test_what_was_unpinned_and_is_meant_by_nobody_leaves(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    await deck.service.residents.pin("medical@1")
    new = await deck.add("medical", 2)
    await deck.settle()
    assert deck.resident() == {old, new}
    await deck.service.residents.unpin("medical@1")
    await deck.settle()
    assert deck.resident() == {new}


async def test_a_removed_name_is_pinned_no_more(deck: Deck) -> None:
    await deck.add("medical", 1)
    await deck.service.residents.pin("medical")
    await deck.service.adapters.remove("medical")
    await deck.settle()
    assert deck.resident() == set()
    with pytest.raises(AdapterNotFound):
        await deck.service.residents.unpin("medical")


async def test_a_replace_that_has_no_room_beside_what_is_pinned_changes_nothing(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=1)
    old = await deck.add("medical", 1)
    await deck.service.residents.pin("medical")
    with pytest.raises(AdapterTooLarge) as caught:
        await deck.add("medical", 2)
    assert "unpin" in caught.value.hint
    assert deck.resident() == {old}
    assert (await deck.text("medical")).startswith(old[:8])
    assert deck.blobs() == 1

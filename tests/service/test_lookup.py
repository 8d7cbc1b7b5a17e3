"""Unknown names: found by the operator's resolvers, added once, and asked about again only after a while."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from loradex.errors import (
    AdapterInvalid,
    ConfigInvalid,
    LoradexError,
    ModelNotFound,
    PathNotAllowed,
    SourceFailed,
)
from loradex.service import lookup
from loradex.service.lookup import Place, from_folder, from_python

from .conftest import MakeDeck
from .deck import save_adapter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_sub_folder_is_an_adapter(make_deck: MakeDeck, tmp_path: Path) -> None:
    place = tmp_path / "loras"
    place.mkdir()
    deck = await make_deck(resolvers=[from_folder(place)])
    save_adapter(place / "medical", deck.engine.info)
    texts = await asyncio.gather(*(deck.text("medical") for _ in range(8)))
    digest = deck.registry.resolve("medical").digest
    assert all(text.startswith(digest[:8]) for text in texts)
    (entry,) = await deck.service.adapters.history("medical")
    assert (entry.actor, entry.action) == ("resolver", "add")
    for model in ("legal", "../medical", "medical/x", "medical@7", "base:nothing", ".."):
        with pytest.raises(ModelNotFound):
            await deck.text(model)


async def test_members_of_a_mix_are_looked_up_too(make_deck: MakeDeck, tmp_path: Path) -> None:
    deck = await make_deck(resolvers=[from_folder(tmp_path)])
    await deck.add("known", 1)
    for seed, name in ((2, "medical"), (3, "legal")):
        save_adapter(tmp_path / name, deck.engine.info, seed=seed)
    digests = [deck.registry.resolve("known").digest]
    text = await deck.text("medical*0.5+known+legal*2")
    digests += [deck.registry.resolve(name).digest for name in ("medical", "legal")]
    assert all(digest[:8] in text for digest in digests)
    with pytest.raises(ModelNotFound):
        await deck.text("medical+nobody")


async def test_links_lead_nowhere(make_deck: MakeDeck, tmp_path: Path) -> None:
    place = tmp_path / "loras"
    place.mkdir()
    deck = await make_deck(resolvers=[from_folder(place)])
    (place / "out").symlink_to(save_adapter(tmp_path / "elsewhere", deck.engine.info))
    with pytest.raises(PathNotAllowed):
        await deck.text("out")


async def test_a_name_that_leads_nowhere_is_asked_again_after_a_while(make_deck: MakeDeck) -> None:
    asked: list[str] = []
    found: dict[str, Path] = {}

    def resolver(name: str) -> Place:
        asked.append(name)
        return found.get(name)

    clock = Clock()
    deck = await make_deck(resolvers=[resolver], clock=clock)
    for _ in range(3):
        with pytest.raises(ModelNotFound):
            await deck.text("late")
    assert asked == ["late"]
    found["late"] = deck.files(1)
    clock.now += lookup.REMEMBERED_SECONDS
    await deck.text("late")
    assert asked == ["late", "late"]
    # What was switched off is not brought back behind the operator's back.
    await deck.service.residents.unload("late", disable=True)
    with pytest.raises(ModelNotFound):
        await deck.text("late")
    assert asked == ["late", "late"]


async def test_made_up_names_do_not_fill_the_memory(make_deck: MakeDeck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_REMEMBERED", 5)
    deck = await make_deck(resolvers=[lambda name: None])
    for number in range(9):
        with pytest.raises(ModelNotFound):
            await deck.text(f"name-{number}")
    assert len(deck.service._lookup._failed) == 5


async def test_what_is_found_and_bad_says_why(make_deck: MakeDeck) -> None:
    async def resolver(name: str) -> Place:
        if name == "broken":
            raise KeyError("no database")
        return deck.files(1, nan=True)

    deck = await make_deck(resolvers=[resolver])
    kinds: dict[str, type[LoradexError]] = {"bad": AdapterInvalid, "broken": SourceFailed}
    for name, error in kinds.items():
        for _ in range(2):
            with pytest.raises(error):
                await deck.text(name)
    assert deck.registry.list() == []


def test_a_function_is_named_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our_resolver.py").write_text("def find(name):\n    return f'/adapters/{name}'\nvalue = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert from_python("our_resolver:find")("medical") == "/adapters/medical"
    for place in ("our_resolver", "our_resolver:none", "our_resolver:value", "none.such:find", "", ":"):
        with pytest.raises(ConfigInvalid):
            from_python(place)
    sys.modules.pop("our_resolver", None)

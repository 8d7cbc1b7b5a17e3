from __future__ import annotations

from pathlib import Path

import pytest

from loradex.errors import FilesNotFound, PathNotAllowed
from loradex.registry.source import contained, find_source
from tests.adapters.making import make_adapter


def test_a_path_inside_comes_back_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "link").symlink_to(inside, target_is_directory=True)
    monkeypatch.chdir(inside)
    for path in (inside / "a", inside / "b" / ".." / "a", tmp_path / "link" / "a", Path("a"), "a"):
        assert contained(path, [tmp_path / "link"]) == inside / "a"
    assert contained(inside, [inside]) == inside


@pytest.mark.parametrize("path", ["..", "../inside-out", "/", "", "\0", "../inside/../x", "x" * 5000 + "/../.."])
def test_a_path_outside_is_refused(tmp_path: Path, path: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(PathNotAllowed) as error:
        contained(inside / ".." / path if path != "/" else "/", [inside])
    assert "--allow-dir" in error.value.hint


def test_a_loop_of_links_is_refused_or_not_there(tmp_path: Path) -> None:
    from loradex.errors import LoradexError

    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for allowed in ([tmp_path], None):
        with pytest.raises(LoradexError):
            find_source(tmp_path / "a", allowed)


def test_the_folder_as_named_is_kept_for_people(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "out" / "medical")
    assert find_source(tmp_path / "out", [tmp_path]).folder == folder


def test_a_relative_path_becomes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_adapter(tmp_path / "medical")
    monkeypatch.chdir(tmp_path)
    for allowed in (None, [tmp_path]):
        assert find_source("medical", allowed).folder == folder
    with pytest.raises(FilesNotFound):
        find_source("null\0byte", None)

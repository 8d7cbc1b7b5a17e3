from __future__ import annotations

from loradex.errors import near


def test_names_that_are_near_come_once_and_best_first() -> None:
    assert near("./base", ["base", "legal", "base", "basis"]) == ["base", "basis"]
    assert near("xyz", ["base"]) == []

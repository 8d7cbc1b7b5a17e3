from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from tests.adapters.formats.oracle import Oracle


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Oracle]:
    """Give the base model of a family, made once."""
    made: dict[str, Oracle] = {}

    def get(family: str) -> Oracle:
        if family not in made:
            made[family] = Oracle(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get

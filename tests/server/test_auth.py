from __future__ import annotations

import pytest

from loradex.errors import AuthenticationFailed
from loradex.server.auth import Keys


def test_without_keys_everybody_may_do_everything() -> None:
    assert Keys().scope_of(None) == "admin"


@pytest.mark.parametrize(
    ("header", "scope"),
    [("Bearer use", "infer"), ("bearer use", "infer"), ("Bearer rule", "admin"), ("Bearer  rule ", "admin")],
)
def test_a_key_has_its_scope(header: str, scope: str) -> None:
    assert Keys(["use"], ["rule"]).scope_of(header) == scope


def test_a_key_of_both_scopes_is_an_admin_key() -> None:
    assert Keys(["both"], ["both"]).scope_of("Bearer both") == "admin"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic use", "use", "Bearer us", "Bearer usee"])
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(AuthenticationFailed):
        Keys(["use"], ["rule"]).scope_of(header)


def test_keys_beyond_ascii_are_compared() -> None:
    assert Keys(["schlüssel"]).scope_of("Bearer schlüssel") == "infer"

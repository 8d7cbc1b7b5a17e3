from __future__ import annotations

import pytest

from loradex.errors import AuthenticationFailed
from loradex.server.auth import Caller, Keys


def test_without_keys_everybody_may_do_everything() -> None:
    assert Keys().caller(None) == Caller("admin")


@pytest.mark.parametrize(
    ("header", "scope"),
    [("Bearer use", "infer"), ("bearer use", "infer"), ("Bearer rule", "admin"), ("Bearer  rule ", "admin")],
)
def test_a_key_has_its_scope(header: str, scope: str) -> None:
    assert Keys(["use"], ["rule"]).caller(header).scope == scope


def test_a_key_of_both_scopes_is_an_admin_key() -> None:
    assert Keys(["both"], ["both"]).caller("Bearer both").scope == "admin"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic use", "use", "Bearer us", "Bearer usee"])
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(AuthenticationFailed):
        Keys(["use"], ["rule"]).caller(header)


def test_keys_beyond_ascii_are_compared() -> None:
    assert Keys(["schlüssel"]).caller("Bearer schlüssel").scope == "infer"


def test_a_key_has_a_name_or_gets_one_that_does_not_tell_it() -> None:
    keys = Keys(["use"], ["ops=rule", "c2VjcmV0==", "x="])
    assert keys.caller("Bearer rule") == Caller("admin", "ops")
    assert keys.caller("Bearer use") == Caller("infer", "key-a3b142af")
    assert keys.caller("Bearer c2VjcmV0==").name.startswith("key-")  # base64 ends so: no name
    assert keys.caller("Bearer x=").name.startswith("key-")
    with pytest.raises(AuthenticationFailed):
        keys.caller("Bearer ops=rule")

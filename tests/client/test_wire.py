from __future__ import annotations

from typing import Any

import pytest

from loradex import errors
from loradex.client import wire
from loradex.client.views import Change


def classes(cls: type[errors.LoradexError]) -> list[type[errors.LoradexError]]:
    return [cls, *(each for child in cls.__subclasses__() for each in classes(child))]


@pytest.mark.parametrize("cls", [each for each in classes(errors.LoradexError) if each.__module__ == "loradex.errors"])
def test_every_error_comes_back_by_its_code(cls: type[errors.LoradexError]) -> None:
    body = {"error": {"message": "m", "code": cls.code, "hint": "h", "param": "p"}}
    error = wire.read_error(cls.status, body)
    assert type(error) is cls
    assert (error.message, error.hint, error.param, str(error)) == ("m", "h", "p", "m")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"detail": "Not Found"}, errors.NotFound),
        (404, {"error": {"message": "no model", "code": 404, "type": "NotFoundError"}}, errors.NotFound),
        (401, {"error": "Unauthorized"}, errors.AuthenticationFailed),
        (503, "busy", errors.Overloaded),
        (502, None, errors.LoradexError),
    ],
)
def test_errors_of_other_servers_are_told_by_their_status(status: int, body: Any, kind: type[Exception]) -> None:
    error = wire.read_error(status, body)
    assert type(error) is kind
    assert error.message


def test_a_newer_server_may_say_more() -> None:
    call = wire.load("x")
    change = call.read({"name": "x", "version": 1, "digest": "d", "previous": None, "colour": "red"}, {})
    assert change == Change("x", 1, "d")


@pytest.mark.parametrize("data", [None, [], "x", {"name": "x"}, {"resident": 5}])
def test_what_is_no_reply_of_ours_is_said_so(data: Any) -> None:
    for call in (wire.load("x"), wire.resident(), wire.chat("base", "x", False, {})):
        with pytest.raises(errors.ServerUnreachable, match="reply"):
            call.read(data, {})


def test_names_are_safe_in_paths() -> None:
    assert wire.get_adapter("a/b?c").path == "/api/adapters/a%2Fb%3Fc"


@pytest.mark.parametrize("line", ["", ": ping", "event: x", "data: [DONE]", "data:"])
def test_lines_that_carry_nothing(line: str) -> None:
    assert wire.read_event(line) is None


def test_an_error_within_a_stream_is_raised() -> None:
    with pytest.raises(errors.EngineFailed, match="broke"):
        wire.read_event('data: {"error": {"message": "it broke", "code": "engine_failed"}}')

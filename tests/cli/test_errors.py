from __future__ import annotations

import pytest

from loradex import errors
from loradex.cli.errors import exit_code, explained
from loradex.errors import AdapterInvalid, Problem


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.AdapterNotFound("x"), 3),
        (errors.FilesNotFound("x"), 3),
        (errors.ServerUnreachable("x"), 4),
        (errors.ConfigInvalid("x"), 2),
        (errors.InvalidRequest("x"), 2),
        (errors.ContextLengthExceeded("x"), 1),
        (errors.AdapterInvalid("x"), 1),
        (errors.RegistryFailed("x"), 1),
        (ValueError("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_says_what_why_and_the_fix() -> None:
    try:
        raise errors.RegistryFailed("The store is gone") from PermissionError(13, "Permission denied", "/x")
    except errors.RegistryFailed as error:
        lines = explained(error).lines()
    assert [label for label, _ in lines] == ["error", "why", "fix"]
    assert lines[0][1] == "The store is gone"
    assert lines[1][1] == "Permission denied: /x"


def test_without_a_cause_the_class_says_why() -> None:
    assert explained(errors.Conflict("x")).why == "The name is taken, or another change came first."


def test_every_problem_has_its_fix() -> None:
    problems = [Problem("a", "A is wrong", "mend A"), Problem("b", "B is wrong", "mend B")]
    lines = explained(AdapterInvalid("Adapter `x` cannot be served", problems)).lines()
    assert lines == [
        ("error", "Adapter `x` cannot be served"),
        ("why", "A is wrong"),
        ("fix", "mend A"),
        ("why", "B is wrong"),
        ("fix", "mend B"),
    ]


def test_a_defect_is_named_as_one() -> None:
    assert "LORADEX_DEBUG" in explained(ZeroDivisionError("division by zero")).fix

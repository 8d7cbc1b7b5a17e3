from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from loradex.errors import InvalidRequest
from loradex.server.body import IGNORED, Body, JsonRequest, Whole, ignored


class Example(Body):
    count: Whole | None = None
    share: float | None = None


async def read(raw: bytes) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw}

    return await JsonRequest({"type": "http", "headers": []}, receive).json()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": NaN}', "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (b'"\xff\xfe\xfa"', "UTF"),
        (b"[" * 200_000, "deep"),
        (b"1" * 10_000, "digits"),
        (b"{", "Expecting"),
    ],
)
async def test_what_the_standard_forbids_is_not_json(raw: bytes, reason: str) -> None:
    with pytest.raises(json.JSONDecodeError, match=reason):
        await read(raw)


async def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert await read(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_5_and_5_point_0_are_the_same_number() -> None:
    assert Example(count=5.0).count == 5  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["5", True, 5.5, float("inf"), 10**30, [5]])
def test_other_types_are_not_a_whole_number(value: object) -> None:
    with pytest.raises(ValidationError):
        Example(count=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["1", True, float("inf"), float("nan"), 10**400])
def test_a_share_is_a_finite_number(value: object) -> None:
    with pytest.raises(ValidationError):
        Example(share=value)  # type: ignore[arg-type]


def test_unknown_fields_are_named() -> None:
    assert ignored(Example(count=1), strict=False) == {}
    assert ignored(Example(zeta=1, alpha=None), strict=False) == {IGNORED: "alpha, zeta"}  # type: ignore[call-arg]


def test_names_that_cannot_stand_in_a_header_are_escaped_and_cut() -> None:
    body = Example.model_validate({"a\r\nX-Evil: 1": 0, "ü" * 200: 0, **{f"n{i:03}": 0 for i in range(50)}})
    header = ignored(body, strict=False)[IGNORED]
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < 500
    assert header.endswith(", ...")


@pytest.mark.parametrize("name", ["", " ", "a ", " a", "x" * 63 + " y"])
def test_a_header_has_no_spaces_at_its_ends(name: str) -> None:
    header = ignored(Example.model_validate({name: 0}), strict=False)[IGNORED]
    assert header == header.strip() != ""


def test_unknown_fields_are_refused_in_the_strict_mode() -> None:
    with pytest.raises(InvalidRequest, match="Unknown field: zeta") as caught:
        ignored(Example(zeta=1), strict=True)  # type: ignore[call-arg]
    assert caught.value.param == "zeta"

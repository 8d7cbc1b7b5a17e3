"""The call of a comparison, and its replies read into values. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from loradex.client.comparison import CompareEvent, Comparison, Scored, Side, SideFailure, Token
from loradex.client.decision import Decision
from loradex.client.wire import Call, Messages, make, read_error


def compare(
    prompt: Messages, sides: Sequence[str], reference: str, stream: bool, options: Mapping[str, Any]
) -> Call[Comparison]:
    """What several sides say to one prompt."""
    asked = {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}
    body: dict[str, Any] = {**asked, "sides": list(sides), **options, "stream": stream}
    return Call("POST", "/api/compare", _comparison, body | ({"reference": reference} if reference else {}))


def read_compare_event(line: str) -> CompareEvent | None:
    """Read one line of a comparison that streams; None for lines that carry nothing.

    Raises:
        LoradexError: the server ended the stream with an error.
    """
    payload = line[5:].strip() if line.startswith("data:") else ""
    if not payload or payload == "[DONE]":
        return None
    data = json.loads(payload)
    if data.get("error") and "type" not in data:
        raise read_error(500, data)
    route = make(Decision, data["route"]) if data.get("route") else None
    kind = data.get("type")
    side = _side(data) if kind == "end" else None
    whole = _comparison(data) if kind == "compared" else None
    return make(CompareEvent, data, side=side, route=route, comparison=whole)


def _comparison(data: Any, _: Mapping[str, str] | None = None) -> Comparison:
    sides = data.get("sides") if isinstance(data, Mapping) else None
    return make(Comparison, data, sides=tuple(map(_side, sides or ())))


def _side(data: Mapping[str, Any]) -> Side:
    scored, failed, route = data.get("reference"), data.get("error"), data.get("route")
    return make(
        Side,
        data,
        tokens=_tokens(data),
        difference=tuple((kind, text) for kind, text in data.get("difference") or ()),
        route=make(Decision, route) if route else None,
        reference=make(Scored, scored, tokens=_tokens(scored)) if scored else None,
        error=make(SideFailure, failed) if failed else None,
    )


def _tokens(data: Mapping[str, Any]) -> tuple[Token, ...]:
    return tuple(make(Token, each) for each in data.get("tokens") or ())

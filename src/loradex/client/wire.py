"""What goes over the wire: calls as values, and replies read into values or typed errors. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

from loradex import errors
from loradex.client.answer import Answer, Piece
from loradex.client.decision import Decision
from loradex.client.views import (
    AdapterView,
    Change,
    HistoryEntry,
    Info,
    InvalidView,
    Job,
    KindView,
    Pinned,
    Report,
    ResidentView,
    Shadow,
    VersionView,
)

DEFAULT_URL = "http://127.0.0.1:8000"

T = TypeVar("T")
Messages = str | Sequence[Mapping[str, Any]]
"""A conversation, or one question as plain text."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One HTTP call and how to read its reply (body, headers)."""

    method: str
    path: str
    read: Callable[[Any, Mapping[str, str]], T]
    body: Mapping[str, Any] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """That the server was asked to wait, beside what it takes to answer."""


def check_url(url: str) -> str:
    """Return the address without its trailing slash.

    Raises:
        ConfigInvalid: it is not an `http://` or `https://` address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.ConfigInvalid(f"{url!r} is not a server address", hint=f"Write it like {DEFAULT_URL}")
    return url.rstrip("/").removesuffix("/v1")


def is_loopback(url: str) -> bool:
    """Whether the address is this machine; a proxy from the environment must not stand between."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def make(cls: type[T], data: Any, **given: Any) -> T:
    """Build a view from JSON; unknown keys, of a newer server, are left out."""
    if not isinstance(data, Mapping):
        raise errors.ServerUnreachable("The server's reply is not in the form of a Loradex server")
    names = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in names}
    try:
        return cls(**{**values, **given})
    except TypeError as error:
        raise errors.ServerUnreachable("The server's reply is not in the form of a Loradex server") from error


def read_adapter(data: Any, _: Mapping[str, str] | None = None) -> AdapterView:
    """Read one adapter."""
    versions = data.get("versions", ()) if isinstance(data, Mapping) else ()
    shares = data.get("canary") if isinstance(data, Mapping) else None
    canary = {int(version): percent for version, percent in (shares or {}).items()}
    copied = data.get("shadow") if isinstance(data, Mapping) else None
    shadow = make(Shadow, copied) if copied else None
    read = tuple(make(VersionView, each) for each in versions)
    return make(AdapterView, data, versions=read, canary=canary, shadow=shadow)


def _read_change(data: Any, _: Mapping[str, str]) -> Change:
    previous = data.get("previous") if isinstance(data, Mapping) else None
    return make(Change, data, previous=make(Pinned, previous) if previous else None)


def _read_decision(data: Any, _: Mapping[str, str]) -> Decision:
    return make(Decision, data)


def _read_job(data: Any, _: Mapping[str, str]) -> Job:
    found = data if isinstance(data, Mapping) else {}
    result = _read_change(found["result"], {}) if found.get("result") else None
    error = read_error(500, data) if found.get("error") else None
    return make(Job, data, result=result, error=error)


def _read_jobs(data: Any, _: Mapping[str, str]) -> list[Job]:
    rows = data.get("jobs", ()) if isinstance(data, Mapping) else ()
    return [_read_job(each, {}) for each in rows]


def _read_report(data: Any, _: Mapping[str, str]) -> Report:
    found = data if isinstance(data, Mapping) else {}
    problems = tuple(make(errors.Problem, each) for each in found.get("problems", ()))
    return make(Report, data, problems=problems, kinds=tuple(make(KindView, each) for each in found.get("kinds", ())))


def _read_rows(cls: type[T], key: str) -> Callable[[Any, Mapping[str, str]], list[T]]:
    def read(data: Any, _: Mapping[str, str]) -> list[T]:
        rows = data.get(key) if isinstance(data, Mapping) else None
        if not isinstance(rows, list):
            raise errors.ServerUnreachable("The server's reply is not in the form of a Loradex server")
        return [make(cls, row) for row in rows]

    return read


def _read_adapters(data: Any, _: Mapping[str, str]) -> list[AdapterView]:
    rows = data.get("adapters", ()) if isinstance(data, Mapping) else ()
    return [read_adapter(each) for each in rows]


def _read_invalid(data: Any, _: Mapping[str, str]) -> list[InvalidView]:
    rows = (data.get("invalid") if isinstance(data, Mapping) else None) or ()  # an older server has none
    made = [tuple(make(errors.Problem, each) for each in row.get("problems") or ()) for row in rows]
    return [make(InvalidView, row, problems=problems) for row, problems in zip(rows, made, strict=True)]


def _read_nothing(_: Any, __: Mapping[str, str]) -> None:
    return None


def _path(*parts: str) -> str:
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


def info() -> Call[Info]:
    """What the server is."""
    return Call("GET", _path("info"), lambda data, _: make(Info, data))


def list_adapters() -> Call[list[AdapterView]]:
    """Every adapter."""
    return Call("GET", _path("adapters"), _read_adapters)


def invalid() -> Call[list[InvalidView]]:
    """What lies in watched folders and cannot be served."""
    return Call("GET", _path("adapters"), _read_invalid)


def get_adapter(name: str) -> Call[AdapterView]:
    """One adapter."""
    return Call("GET", _path("adapters", name), read_adapter)


def adding(
    mode: str,
    replace: bool,
    allow_pickle: bool,
    canary: float | None,
    sha256: str,
    defaults: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """How a version is to be registered; what is not asked for is left out, for servers that do not know it."""
    options: dict[str, Any] = {"mode": mode, "replace": replace, "allow_pickle": allow_pickle}
    options |= {} if canary is None else {"canary": canary}
    options |= {} if defaults is None else {"defaults": defaults}
    return options | ({"sha256": sha256} if sha256 else {})


def add_adapter(name: str, path: str, options: Mapping[str, Any]) -> Call[Change]:
    """Register a version and serve it, or give it a share of the requests."""
    return Call("POST", _path("adapters"), _read_change, {"name": name, "path": path, **options})


def upload(name: str, options: Mapping[str, Any]) -> Call[Change]:
    """Send an adapter's files and register them; the files are the body."""
    written = {"defaults": json.dumps(options["defaults"])} if "defaults" in options else {}
    return Call("PUT", _path("adapters", name, "files"), _read_change, params={**options, **written})


def begun(call: Call[Change]) -> Call[Job]:
    """Begin what a call does, as a job."""
    return Call(call.method, call.path, _read_job, call.body, {**call.params, "wait": "false"})


def configure(name: str, defaults: Mapping[str, Any], version: int | None) -> Call[AdapterView]:
    """Set what requests for a version may leave out."""
    params = {} if version is None else {"version": version}
    return Call("PUT", _path("adapters", name, "defaults"), read_adapter, defaults, params)


def list_jobs() -> Call[list[Job]]:
    """The jobs that are known, newest first."""
    return Call("GET", _path("jobs"), _read_jobs)


def get_job(job_id: str) -> Call[Job]:
    """One job."""
    return Call("GET", _path("jobs", job_id), _read_job)


def cancel_job(job_id: str) -> Call[Job]:
    """Cancel a job."""
    return Call("DELETE", _path("jobs", job_id), _read_job)


def check_adapter(path: str, allow_pickle: bool) -> Call[Report]:
    """Check files against the base without registering them."""
    asked = {"path": path, **({"allow_pickle": True} if allow_pickle else {})}
    return Call("POST", "/api/adapters:check", _read_report, asked)


def promote(name: str, version: int, alias: str, mode: str) -> Call[Change]:
    """Point an alias at a version."""
    body = {"version": version, "mode": mode}
    return Call("PUT", _path("adapters", name, "aliases", alias), _read_change, body)


def remove_alias(name: str, alias: str) -> Call[None]:
    """Remove an alias."""
    return Call("DELETE", _path("adapters", name, "aliases", alias), _read_nothing)


def rollback(name: str, mode: str) -> Call[Change]:
    """Go back to what the name meant before the last change."""
    return Call("POST", _path("adapters", name, "rollback"), _read_change, {"mode": mode})


def canary(name: str, shares: Mapping[int, float]) -> Call[AdapterView]:
    """Let versions share a name's requests."""
    body = {"shares": {str(version): percent for version, percent in shares.items()}}
    return Call("PUT", _path("adapters", name, "canary"), read_adapter, body)


def end_canary(name: str) -> Call[AdapterView]:
    """Give all requests back to the version that the name means."""
    return Call("DELETE", _path("adapters", name, "canary"), read_adapter)


def shadow(name: str, version: int, percent: float) -> Call[AdapterView]:
    """Let a version get copies of a name's requests."""
    body = {"version": version, "percent": percent}
    return Call("PUT", _path("adapters", name, "shadow"), read_adapter, body)


def end_shadow(name: str) -> Call[AdapterView]:
    """End the copies."""
    return Call("DELETE", _path("adapters", name, "shadow"), read_adapter)


def remove(name: str, version: int | None) -> Call[None]:
    """Remove an adapter, or one version of it."""
    params = {} if version is None else {"version": version}
    return Call("DELETE", _path("adapters", name), _read_nothing, params=params)


def history(name: str) -> Call[list[HistoryEntry]]:
    """Every change, newest first."""
    return Call("GET", _path("adapters", name, "history"), _read_rows(HistoryEntry, "history"))


def resident() -> Call[list[ResidentView]]:
    """What the engine holds."""
    return Call("GET", _path("resident"), _read_rows(ResidentView, "resident"))


def load(adapter: str) -> Call[Change]:
    """Make an adapter resident."""
    return Call("POST", _path("resident"), _read_change, {"adapter": adapter})


def unload(name: str, mode: str, timeout: float) -> Call[None]:
    """Free an adapter's slot; its name goes on to exist."""
    params = {"mode": mode, "timeout": timeout}
    return Call("DELETE", _path("resident", name), _read_nothing, params=params, seconds=timeout)


def pin(adapter: str) -> Call[Change]:
    """Make an adapter resident for good."""
    return Call("PUT", _path("resident", adapter, "pin"), _read_change)


def unpin(adapter: str) -> Call[None]:
    """Let a pinned adapter make room again."""
    return Call("DELETE", _path("resident", adapter, "pin"), _read_nothing)


def route(text: str) -> Call[Decision]:
    """Which adapter the router would take."""
    return Call("POST", _path("route"), _read_decision, {"text": text})


def chat(model: str, messages: Messages, stream: bool, options: Mapping[str, Any]) -> Call[Answer]:
    """One chat completion."""
    asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return _generate("/v1/chat/completions", {"model": model, "messages": asked, **options}, stream)


def complete(model: str, prompt: str | Sequence[int], stream: bool, options: Mapping[str, Any]) -> Call[Answer]:
    """One completion."""
    asked = prompt if isinstance(prompt, str) else list(prompt)
    return _generate("/v1/completions", {"model": model, "prompt": asked, **options}, stream)


def _generate(path: str, body: dict[str, Any], stream: bool) -> Call[Answer]:
    if stream:
        body = {"stream_options": {"include_usage": True}, **body, "stream": True}
    return Call("POST", path, _read_answer, body)


def _read_answer(data: Any, headers: Mapping[str, str]) -> Answer:
    choices = data.get("choices") if isinstance(data, Mapping) else None
    if not choices:
        raise errors.ServerUnreachable("The server's reply holds no answer")
    first = choices[0]
    text = first["message"]["content"] if "message" in first else first.get("text")
    return Answer(
        text=text or "",
        model=data.get("model", ""),
        adapter=headers.get("x-loradex-adapter", ""),
        finish_reason=first.get("finish_reason"),
        request_id=headers.get("x-request-id", ""),
        fingerprint=data.get("system_fingerprint") or "",
        usage=data.get("usage") or {},
        raw=data,
    )


def read_event(line: str) -> Piece | None:
    """Read one line of a stream; None for lines that carry nothing.

    Raises:
        LoradexError: the server ended the stream with an error.
    """
    if not line.startswith("data:"):
        return None
    payload = line[5:].strip()
    if not payload or payload == "[DONE]":
        return None
    data = json.loads(payload)
    if "error" in data:
        raise read_error(500, data)
    fingerprint = data.get("system_fingerprint") or ""
    if not data.get("choices"):
        return Piece("", fingerprint=fingerprint, usage=data.get("usage"))
    choice = data["choices"][0]
    text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
    return Piece(text or "", choice.get("finish_reason"), fingerprint, data.get("usage"), choice.get("index", 0))


def _tree(cls: type[errors.LoradexError]) -> dict[str, type[errors.LoradexError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found.update(_tree(child))
    return found


_BY_STATUS: dict[int, type[errors.LoradexError]] = {
    400: errors.InvalidRequest,
    401: errors.AuthenticationFailed,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    409: errors.Conflict,
    422: errors.InvalidRequest,
    503: errors.Overloaded,
}


def read_error(status: int, data: Any) -> errors.LoradexError:
    """Return the error that the server raised, as the same class; by its status where the code is not ours."""
    body = data.get("error") if isinstance(data, Mapping) else None
    if not isinstance(body, Mapping):
        body = {"message": str(body or f"The server answered with status {status}")}
    cls = _tree(errors.LoradexError).get(str(body.get("code"))) or _BY_STATUS.get(status, errors.LoradexError)
    # Some classes build their message from parts; here it has been built already.
    error = cls.__new__(cls)
    errors.LoradexError.__init__(error, str(body.get("message", "")), hint=body.get("hint"), param=body.get("param"))
    if isinstance(error, errors.AdapterInvalid):
        error.problems = tuple(make(errors.Problem, each) for each in body.get("problems") or ())
    return error

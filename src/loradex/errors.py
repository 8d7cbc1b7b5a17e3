"""Every error that Loradex raises on purpose: one tree, drawn here.

    LoradexError
    ├── InvalidRequest             400  a field has a wrong type or value
    │   ├── ContextLengthExceeded  400  prompt and answer do not fit the context
    │   ├── BodyTooLarge           413  the body is larger than the server reads
    │   └── Unsupported            400  understood, but not offered
    ├── AuthenticationFailed       401  no key, or an unknown one
    ├── PermissionDenied           403  the key lacks the scope
    ├── PathNotAllowed             403  a path or address outside of what is allowed
    ├── NotFound                   404
    │   ├── ModelNotFound          404  `model` names neither the base nor an adapter
    │   ├── AdapterNotFound        404  no such adapter, version or alias
    │   └── FilesNotFound          404  no adapter at that path
    ├── Conflict                   409  the name is taken, or the change lost a race
    ├── AdapterInvalid             400  the adapter cannot be served; carries every problem
    ├── AdapterTooLarge            400  larger than the memory for adapters
    ├── AdapterUnloaded            503  it was unloaded by force while it answered
    ├── AdapterDamaged             500  stored files are gone or differ from their digest
    ├── SourceFailed               502  a hub, bucket or web server could not be read
    ├── Overloaded                 503  no room now; a later try may succeed
    ├── EngineFailed               500  the engine broke on this request
    │   └── AnswerIncomplete       500  an answer ended before the form that it was asked for was complete
    ├── EngineStopped              503  the engine is not running
    ├── RegistryFailed             500  the store could not be read or written
    ├── ConfigInvalid              400  a setting is wrong or unknown
    │   └── MemoryShort            400  less memory is free than the settings ask for
    ├── MissingExtra               500  an optional dependency is not installed
    └── ServerUnreachable          503  no server answers at that address

Each has a stable `code`, a message, a `hint` that says the fix, and an HTTP status. The server and the command line
each map the tree once; nobody recognises an error by its text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why an adapter cannot be served.

    `code` is stable and machine-readable, `what` says what is wrong with the values in it, `fix` what to do.
    """

    code: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what} ({self.fix})" if self.fix else self.what


class LoradexError(Exception):
    """Root of the tree. `hint` is the fix, `param` the request field at fault where there is one."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    default_hint: ClassVar[str] = "Run `loradex doctor`, and report the message if it persists"

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.param = param


class InvalidRequest(LoradexError):
    """A field of a request has a wrong type or value."""

    code = "invalid_request"
    status = 400
    default_hint = "Correct the named field and send the request again"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt with the tokens asked for, does not fit the context of the model."""

    code = "context_length_exceeded"
    default_hint = "Shorten the prompt, lower `max_tokens`, or serve with a larger `--max-model-len`"


class BodyTooLarge(InvalidRequest):
    """The body of a request is larger than the server reads."""

    code = "body_too_large"
    status = 413
    default_hint = "Send less in one request"


class Unsupported(InvalidRequest):
    """The request asks for something that this server understands but does not offer."""

    code = "unsupported"
    default_hint = "Leave the named field out"


class AuthenticationFailed(LoradexError):
    """The request carries no API key, or one that the server does not know."""

    code = "invalid_api_key"
    status = 401
    default_hint = "Send `Authorization: Bearer KEY` with a key that the server was started with"


class PermissionDenied(LoradexError):
    """The API key lacks the scope that the route asks for."""

    code = "insufficient_scope"
    status = 403
    default_hint = "Use a key with the `admin` scope"


class PathNotAllowed(LoradexError):
    """An adapter's path or address that, directly or by a link or redirect, lies outside of what the server allows."""

    code = "path_not_allowed"
    status = 403
    default_hint = "Move the adapter under an allowed folder, or restart the server with `--allow-dir DIR`"


class NotFound(LoradexError):
    """Something named in the request does not exist."""

    code = "not_found"
    status = 404
    default_hint = "List what exists with `loradex adapter ls`"


class ModelNotFound(NotFound):
    """`model` names neither the base model nor an adapter. The base never answers in its place."""

    code = "model_not_found"


class AdapterNotFound(NotFound):
    """No adapter, version or alias of that name."""

    code = "adapter_not_found"


class FilesNotFound(NotFound):
    """There is no adapter at the given path."""

    code = "adapter_files_not_found"
    default_hint = "Give the folder that holds `adapter_config.json` and `adapter_model.safetensors`"


class Conflict(LoradexError):
    """The name is taken, or another change came first."""

    code = "conflict"
    status = 409
    default_hint = "Look at the present state with `loradex adapter ls`, then try again"


class AdapterInvalid(LoradexError):
    """The adapter cannot be served as it is; `problems` lists every reason, each with its fix."""

    code = "adapter_invalid"
    status = 400
    default_hint = "See every problem with `loradex adapter check PATH`"

    def __init__(self, message: str, problems: Iterable[Problem] = (), *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        listed = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"{message}: {listed}" if listed else message, hint=hint)


class AdapterTooLarge(LoradexError):
    """The adapter does not fit the engine's memory for adapters, even with all others out of it."""

    code = "adapter_too_large"
    status = 400
    default_hint = "Serve with a larger `--adapter-memory`"


class AdapterUnloaded(LoradexError):
    """The adapter was unloaded by force while it answered this request."""

    code = "adapter_unloaded"
    status = 503
    default_hint = "Send the request again: the adapter is loaded again when asked for"


class AdapterDamaged(LoradexError):
    """Files in the store are missing or no longer match the digest under which they were registered."""

    code = "adapter_damaged"
    status = 500
    default_hint = "Add the adapter again from its source: `loradex adapter add NAME PATH`"


class SourceFailed(LoradexError):
    """A hub, bucket or web server from which an adapter was to come cannot be reached, or refuses."""

    code = "source_failed"
    status = 502
    default_hint = "Check the address, the network and the credentials of this machine, then try again"


class Overloaded(LoradexError):
    """There is no room for the request now: every adapter slot or cache block is in use."""

    code = "overloaded"
    status = 503
    default_hint = "Try again later, or raise `--max-loras`, `--adapter-memory` or `--kv-cache-memory`"


class EngineFailed(LoradexError):
    """The engine broke while it worked on this request."""

    code = "engine_failed"
    status = 500


class AnswerIncomplete(EngineFailed):
    """The answer ended, at its limit of tokens, before the form that it was asked for was complete.

    `text` is what there is of it.
    """

    code = "answer_incomplete"
    default_hint = "Raise `max_tokens`, or bound what the schema leaves open: `maxLength`, `maxItems`"

    def __init__(self, text: str, tokens: int) -> None:
        super().__init__(f"The answer ended after {tokens} tokens, before it was complete: {text[-80:]!r}")
        self.text = text


class EngineStopped(LoradexError):
    """The engine is not running."""

    code = "engine_stopped"
    status = 503
    default_hint = "Restart the server"


class RegistryFailed(LoradexError):
    """The registry's store could not be read or written. Nothing was changed."""

    code = "registry_failed"
    status = 500
    default_hint = "Check that the data folder (`loradex config show`) exists, is writable and has free space"


class ConfigInvalid(LoradexError):
    """A setting is unknown or has a wrong value."""

    code = "config_invalid"
    status = 400
    default_hint = "See every setting and its source with `loradex config show`"


class MemoryShort(ConfigInvalid):
    """Less memory is free than the settings ask for. None was taken.

    Args:
        free: bytes that are free.
        wanted: bytes that are wanted, by what for.
        hint: which setting to lower.
    """

    code = "memory_short"

    def __init__(self, free: int, wanted: Mapping[str, int], *, hint: str, param: str | None = None) -> None:
        parts = ", ".join(f"{_gib(size)} for {what}" for what, size in wanted.items())
        whole = _gib(sum(wanted.values()))
        super().__init__(f"Free memory ({_gib(free)}) < wanted ({whole}): {parts}", hint=hint, param=param)
        self.free = free
        self.wanted = dict(wanted)


class MissingExtra(LoradexError):
    """The work needs an optional dependency that is not installed."""

    code = "missing_extra"
    status = 500

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", hint=f"Install it: pip install 'loradex[{extra}]'")


class ServerUnreachable(LoradexError):
    """No Loradex server answers at the address."""

    code = "server_unreachable"
    status = 503
    default_hint = "Start one with `loradex serve MODEL`, or name its address with `--url`"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def near(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` of the `known` names that look like `name`, best first, each once."""
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=limit, cutoff=0.5)

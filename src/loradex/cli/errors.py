"""Our errors -> message, reason, fix and exit code; the one table of the command line."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from loradex import errors
from loradex.errors import AdapterInvalid, LoradexError, Problem

FAILURE, USAGE, NOT_FOUND, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 130

# The first match counts.
_EXITS: tuple[tuple[type[LoradexError], int], ...] = (
    (errors.NotFound, NOT_FOUND),
    (errors.ServerUnreachable, UNREACHABLE),
    (errors.ContextLengthExceeded, FAILURE),
    (errors.InvalidRequest, USAGE),
    (errors.ConfigInvalid, USAGE),
)


class UsageFailed(LoradexError):
    """The command was not written as its help says."""

    code = "usage"
    status = 400


def exit_code(error: BaseException) -> int:
    """Return the exit code of the command that ended with this error."""
    if isinstance(error, UsageFailed):
        return USAGE
    return next((code for kind, code in _EXITS if isinstance(error, kind)), FAILURE)


@dataclass(frozen=True, slots=True)
class Explained:
    """An error taken apart: what, why, how to fix it, and an adapter's problems where there are some."""

    code: str
    message: str
    why: str
    fix: str
    problems: tuple[Problem, ...] = ()

    def lines(self) -> list[tuple[str, str]]:
        """Return labelled lines; each problem has its own `why` and `fix`."""
        lines = [("error", self.message)]
        for problem in self.problems:
            lines += [("why", problem.what), ("fix", problem.fix)]
        if not self.problems:
            lines += [("why", self.why), ("fix", self.fix)]
        return [(label, text) for label, text in lines if text]

    def body(self) -> dict[str, Any]:
        """Return the same as the server's error envelope has it."""
        inner: dict[str, Any] = {"message": self.message, "code": self.code, "why": self.why, "hint": self.fix}
        if self.problems:
            inner["problems"] = self.problems
        return {"error": inner}


def explained(error: BaseException) -> Explained:
    """Take an error apart. The reason is its cause, or else what its class stands for."""
    if not isinstance(error, LoradexError):
        fix = "Run it again with LORADEX_DEBUG=1 to see where, and report that"
        return Explained("internal_error", f"{type(error).__name__}: {error}", "A defect in Loradex", fix)
    problems = error.problems if isinstance(error, AdapterInvalid) else ()
    message = error.message
    if problems:
        message = message.removesuffix("; ".join(str(problem) for problem in problems)).rstrip(": ")
    cause = error.__cause__
    why = _reason(cause) if cause is not None else ""
    if not why or " ".join(why.split()) in " ".join(message.split()):  # what was said already is no reason
        why = inspect.getdoc(type(error)) or ""
    return Explained(error.code, message, why.partition("\n\n")[0].replace("\n", " "), error.hint, problems)


def _reason(cause: BaseException) -> str:
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.strerror}: {cause.filename}" if cause.filename else cause.strerror
    return re.sub(r"^\[Errno -?\d+\] ", "", str(cause)) or type(cause).__name__

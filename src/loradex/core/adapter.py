"""How an adapter is named: the reference grammar, and the pinned reference that everything below the registry uses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from loradex.core.defaults import NO_DEFAULTS, Defaults
from loradex.errors import InvalidRequest

BASE = "base"
"""The name that always means the base model without an adapter."""

AUTO = "auto"
"""The name that lets the prompt choose the adapter."""

DEFAULT_ALIAS = "default"
LATEST = "latest"

MAX_VERSION = 2**31 - 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{4,64})")


def check_name(name: str, what: str = "adapter name") -> str:
    """Return `name` if it is safe in URLs, file names, metric labels and shells.

    Raises:
        InvalidRequest: for anything but letters, digits, `.`, `_`, `-` (128 at most, no leading sign).
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"The {what} {name!r} is not valid",
            hint="Use letters, digits, `.`, `_` and `-`, starting with a letter or digit, at most 128 characters",
        )
    return name


@dataclass(frozen=True, slots=True)
class Reference:
    """What a user writes to mean an adapter: `name`, `name@alias`, `name@3` or `name@sha256:ab12`.

    At most one of `alias`, `version` and `digest` is set. With none, the alias `default` is meant where the adapter has
    one, else the newest version.
    """

    name: str
    alias: str | None = None
    version: int | None = None
    digest: str | None = None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        if self.version is not None:
            return f"{self.name}@{self.version}"
        if self.digest is not None:
            return f"{self.name}@sha256:{self.digest}"
        return self.name

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse one reference.

        Raises:
            InvalidRequest: where `text` does not follow the grammar.
        """
        name, at, selector = text.partition("@")
        check_name(name)
        if not at:
            return cls(name)
        if match := _DIGEST.fullmatch(selector):
            return cls(name, digest=match[1])
        if selector.isascii() and selector.isdigit():
            if not 0 < int(selector) <= MAX_VERSION:
                raise InvalidRequest(f"{text!r} names version {selector}; versions start at 1")
            return cls(name, version=int(selector))
        return cls(name, alias=check_name(selector, "alias"))


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """A version of an adapter, pinned: a name is looked up once, at admission, and never again.

    `digest` is the full SHA-256 of the adapter's content in hexadecimal; it identifies the weights everywhere below the
    registry. `name` and `version` are for people. `defaults` are those of the version when it was looked up.
    """

    name: str
    version: int
    digest: str
    defaults: Defaults = field(default=NO_DEFAULTS, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

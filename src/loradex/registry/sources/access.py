"""Who may have what read: the operator everything, a client what the operator allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loradex.errors import PathNotAllowed

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Access:
    """Folders and addresses from which may be read; None allows all of a kind.

    An address allows what lies below it: `hf://acme` every model of acme, `https://files.acme.org/lora` all under
    `/lora/` of that host and port. Host and path are compared part by part, so `https://acme.org` does not allow
    `https://acme.org.evil.net`.
    """

    folders: Sequence[Path] | None = None
    urls: Sequence[str] | None = None

    def permit(self, url: str) -> None:
        """Let an address pass.

        Raises:
            PathNotAllowed: it does not lie below an allowed one.
        """
        if self.urls is None:
            return
        asked = _parts(url)
        if asked is None or not any(_below(asked, _parts(each)) for each in self.urls):
            hint = "Allow it with `--allow-url PREFIX` when the server starts, or upload the adapter"
            where = f"{asked[0]}://{asked[1]}" if asked else "an address of this form"
            raise PathNotAllowed(f"Adapters may not be loaded from {where[:200]} for clients", hint=hint)


Parts = tuple[str, str, int | None, list[str]]


def _parts(url: str) -> Parts | None:
    """Return scheme, host, port and path parts; None for an address that hides where it leads."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or ""), parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    path = unquote(parts.path)
    if not parts.scheme or not host or "@" in parts.netloc or "\\" in path or "%2" in path.lower():
        return None
    inner = [part for part in path.split("/") if part]
    if any(part in (".", "..") for part in inner):
        return None
    if parts.scheme == "hf" and inner:
        name, mark, revision = inner[0].partition("@")
        inner[:1] = [name, mark + revision] if mark else [name]
    return parts.scheme, host, port, inner


def _below(asked: Parts, allowed: Parts | None) -> bool:
    if allowed is None or asked[:3] != allowed[:3]:
        return False
    return asked[3][: len(allowed[3])] == allowed[3]


EVERYWHERE = Access()

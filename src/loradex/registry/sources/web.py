"""`http://` and `https://`: one file, or a folder from which the files are taken that PEFT's users save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

import httpx

from loradex import __version__
from loradex.adapters.files import CONFIG, MAX_CONFIG_BYTES, PICKLED, WEIGHTS
from loradex.adapters.header import read_header
from loradex.adapters.tokenizer import FILES as TOKENIZER
from loradex.adapters.tokenizer import trains_tokens
from loradex.errors import AdapterInvalid, FilesNotFound, SourceFailed
from loradex.registry.sources.room import CHUNK_BYTES, Room

Permit = Callable[[str], None]
"""Raises where an address may not be asked; each redirect is asked about again."""

_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_HEADERS = {"accept-encoding": "identity", "user-agent": f"loradex/{__version__}"}


def fetch_file(url: str, name: str, room: Room, permit: Permit) -> str:
    """Download one file as `name` and return its SHA-256.

    Raises:
        FilesNotFound: the server has no such file.
        SourceFailed: the server cannot be reached or refuses.
        PathNotAllowed: it redirects to where `permit` forbids.
        AdapterInvalid: it is larger than there is room.
    """
    with _client(url) as client:
        return _download(client, url, name, room, permit)


def fetch_folder(url: str, room: Room, permit: Permit) -> None:
    """Download configuration and weights of the adapter below an address, and its tokenizer where it trains tokens.

    Raises what `fetch_file` does.
    """
    parts = urlsplit(url)

    def take(name: str, most: int | None = None) -> None:
        place = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
        _download(client, place, name, room, permit, most)

    with _client(url) as client:
        take(CONFIG, MAX_CONFIG_BYTES)
        try:
            take(WEIGHTS)
        except FilesNotFound:
            take(PICKLED)
        for name, most in TOKENIZER.items() if _may_train_tokens(room) else ():
            with suppress(FilesNotFound):
                take(name, most)


def _may_train_tokens(room: Room) -> bool:
    """Whether a tokenizer may lie beside the weights that were downloaded: trainers save whole ones beside most."""
    weights = room.folder / WEIGHTS
    try:
        return not weights.exists() or trains_tokens(read_header(weights).tensors)
    except AdapterInvalid:  # the check will say so
        return False


def _client(url: str) -> httpx.Client:
    # A proxy from the environment must not stand between us and our own machine.
    local = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    return httpx.Client(timeout=_TIMEOUT, headers=_HEADERS, trust_env=not local)


def _download(client: httpx.Client, url: str, name: str, room: Room, permit: Permit, most: int | None = None) -> str:
    with _answer(client, url, permit) as reply:
        length = reply.headers.get("content-length", "")
        if length.isdecimal():
            room.expect(int(length), f"download {name}")
        return room.write(name, _pieces(reply, most))


def _pieces(reply: httpx.Response, most: int | None) -> Iterator[bytes]:
    size = 0
    try:
        for piece in reply.iter_bytes(CHUNK_BYTES):
            size += len(piece)
            yield piece
            if most is not None and size > most:
                return  # the check says that it is too large
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise _failed(reply.url, f"the download broke off: {error}") from error


@contextmanager
def _answer(client: httpx.Client, url: str, permit: Permit) -> Iterator[httpx.Response]:
    for _ in range(_REDIRECTS + 1):
        permit(url)
        try:
            reply = client.send(client.build_request("GET", url), stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failed(url, str(error) or type(error).__name__) from error
        try:
            if reply.next_request is not None:
                url = str(reply.next_request.url)
                continue
            _check(reply)
            yield reply
            return
        finally:
            reply.close()
    raise _failed(url, f"more than {_REDIRECTS} redirects")


def _check(reply: httpx.Response) -> None:
    if reply.status_code in (404, 410):
        raise FilesNotFound(f"No adapter at {shown(str(reply.url))}: the server has nothing there")
    if reply.status_code != 200:
        raise _failed(reply.url, f"the server answered with status {reply.status_code}")


def shown(url: str) -> str:
    """Return an address without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _failed(url: object, why: str) -> SourceFailed:
    return SourceFailed(f"{shown(str(url))} cannot be read: {why}")

"""The asynchronous HTTP client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from loradex.client import compare_wire, wire
from loradex.client.answer import Answer, Piece
from loradex.client.comparison import CompareEvent, Comparison
from loradex.client.decision import Decision
from loradex.client.jobs import AsyncJobs, Progress
from loradex.client.packing import packed
from loradex.client.reply import body, patience, read, unreachable
from loradex.client.views import AdapterView, Change, HistoryEntry, Info, InvalidView, Job, Report, ResidentView
from loradex.core.adapter import DEFAULT_ALIAS

T = TypeVar("T")
Views = list[AdapterView]
Entries = list[HistoryEntry]
Invalids = list[InvalidView]


class AsyncClient:
    """Talks to a Loradex server, with the verbs of the service; what the server refuses comes back as the same error.

    Args:
        url: address of the server.
        api_key: sent as a bearer token where the server asks for one.
        timeout: seconds to wait for a reply, or for the next piece of a stream.

    Raises:
        ConfigInvalid: `url` is not an address.
        ServerUnreachable: from every method, when no server answers.
    """

    def __init__(self, url: str = wire.DEFAULT_URL, *, api_key: str = "", timeout: float = 600.0) -> None:
        self.url = wire.check_url(url)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            trust_env=not wire.is_loopback(self.url),
        )
        self.adapters = AsyncAdapters(self)
        self.jobs = AsyncJobs(self.send)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def info(self) -> Info:
        """Return what the server is: its version, base model, limits and load."""
        return await self.send(wire.info())

    async def resident(self) -> list[ResidentView]:
        """Return the adapters that the engine holds now."""
        return await self.send(wire.resident())

    async def load(self, adapter: str) -> Change:
        """Make an adapter resident before anybody asks for it.

        Raises:
            AdapterNotFound: there is none of that name.
            Overloaded: every slot is in use.
        """
        return await self.send(wire.load(adapter))

    async def unload(self, name: str, *, mode: str = "detach", timeout: float = 30.0) -> None:
        """Free an adapter's slot; it is loaded again when asked for.

        With `mode` `detach` that happens once its answers have ended; `drain` waits for them, and `force` ends them.

        Raises:
            AdapterNotFound: there is none of that name.
            Conflict: it is pinned, or in use for more than `timeout` seconds.
        """
        await self.send(wire.unload(name, mode, timeout))

    async def pin(self, adapter: str) -> Change:
        """Make an adapter resident, and keep it so until it is unpinned or the server stops. Raises what `load` does.

        A pinned name stays pinned when it gets another version.
        """
        return await self.send(wire.pin(adapter))

    async def unpin(self, adapter: str) -> None:
        """Let an adapter that was pinned make room for others again. Raises AdapterNotFound where it was not."""
        await self.send(wire.unpin(adapter))

    async def route(self, text: str) -> Decision:
        """Return which adapter the model `auto` would take for a prompt, and why.

        Raises:
            ModelNotFound: the server has no router.
        """
        return await self.send(wire.route(text))

    async def chat(self, model: str, messages: wire.Messages, **options: Any) -> Answer:
        """Return a chat completion; `options` are the fields of OpenAI's API (`max_tokens`, `temperature` ...).

        Raises:
            ModelNotFound: `model` names neither the base nor an adapter.
            InvalidRequest: an option has a wrong value.
        """
        return await self.send(wire.chat(model, messages, False, options))

    async def complete(self, model: str, prompt: str | Sequence[int], **options: Any) -> Answer:
        """Return the completion of a text or of token ids. Raises what `chat` raises."""
        return await self.send(wire.complete(model, prompt, False, options))

    async def stream(self, model: str, messages: wire.Messages, **options: Any) -> AsyncStream:
        """Start a chat completion that arrives in pieces. Raises what `chat` raises.

        Write `async with await client.stream(...) as stream`.
        """
        return AsyncStream(self.url, await self._open(wire.chat(model, messages, True, options)))

    async def compare(
        self, prompt: wire.Messages, sides: Sequence[str], *, reference: str = "", **options: Any
    ) -> Comparison:
        """Return what several sides (adapters, versions, mixes, `base`, `auto`) say to one prompt, in one batch.

        With a `reference`, each side also tells how likely it finds that answer. A side that fails has an `error`.

        Raises:
            InvalidRequest: there is no side, or an option has a wrong value.
        """
        return await self.send(compare_wire.compare(prompt, sides, reference, False, options))

    async def compare_events(
        self, prompt: wire.Messages, sides: Sequence[str], *, reference: str = "", **options: Any
    ) -> AsyncIterator[CompareEvent]:
        """Yield a comparison as it comes; the last event has all of it. Raises what `compare` raises."""
        reply = await self._open(compare_wire.compare(prompt, sides, reference, True, options))
        try:
            async for line in reply.aiter_lines():
                if (event := compare_wire.read_compare_event(line)) is not None:
                    yield event
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        finally:
            await reply.aclose()

    async def _open(self, call: wire.Call[Any]) -> httpx.Response:
        """Make a call whose reply comes in pieces; whoever reads it closes it."""
        request = self._http.build_request(call.method, call.path, json=call.body)
        try:
            reply = await self._http.send(request, stream=True)
            if reply.is_error:
                await reply.aread()
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        if not reply.is_error:
            return reply
        await reply.aclose()
        raise wire.read_error(reply.status_code, body(reply))

    async def send(self, call: wire.Call[T], content: AsyncIterator[bytes] | None = None) -> T:
        """Make one call, with `content` in place of a JSON body, and read its reply."""
        try:
            reply = await self._http.request(
                *(call.method, call.path),
                json=call.body,
                content=content,
                params=dict(call.params),
                timeout=patience(self._http.timeout, call),
            )
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        return read(self.url, call, reply)


class AsyncStream:
    """An answer as it comes: iterate over its pieces.

    Attributes:
        adapter: who answers: `medical@3`, or `base`. Known at once.
        request_id: the server's name for this request. Known at once.
        fingerprint: names engine, base and adapter digest. Known from the first piece on.
        finish_reason, usage: known when the iteration has ended.
    """

    def __init__(self, url: str, reply: httpx.Response) -> None:
        self._url = url
        self._reply = reply
        self.adapter: str = reply.headers.get("x-loradex-adapter", "")
        self.request_id: str = reply.headers.get("x-request-id", "")
        self.fingerprint = ""
        self.finish_reason: str | None = None
        self.usage: Mapping[str, Any] = {}

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the answer; the server frees all that it held for it."""
        await self._reply.aclose()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            async for line in self._reply.aiter_lines():
                piece = wire.read_event(line)
                if piece is not None:
                    self.fingerprint = piece.fingerprint or self.fingerprint
                    self.finish_reason = piece.finish_reason or self.finish_reason
                    self.usage = piece.usage or self.usage
                    yield piece
        except httpx.HTTPError as error:
            raise unreachable(self._url, error) from error

    async def text(self) -> str:
        """Wait for the end and return what is left of the text."""
        return "".join([piece.text async for piece in self])


class AsyncAdapters:
    """The verbs of `loradex adapter`, over HTTP."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> Views:
        """Return every adapter."""
        return await self._client.send(wire.list_adapters())

    async def invalid(self) -> Invalids:
        """Return what lies in folders that the server watches and cannot be served."""
        return await self._client.send(wire.invalid())

    async def get(self, name: str) -> AdapterView:
        """Return one adapter with its versions. Raises AdapterNotFound."""
        return await self._client.send(wire.get_adapter(name))

    async def add(
        self,
        name: str,
        path: Path | str,
        *,
        mode: str = "drain",
        replace: bool = True,
        allow_pickle: bool = False,
        canary: float | None = None,
        sha256: str = "",
        defaults: Mapping[str, Any] | None = None,
        told: Progress | None = None,
    ) -> Change:
        """Register the adapter at `path`, on the server's machine or an address, and serve it under `name`.

        With `drain`, running answers end on the version they began with; with `immediate` they switch too.
        With `canary`, the version gets that percentage of the requests, and the name goes on to mean what it means.
        With `sha256`, nothing but this digest, or an archive with this SHA-256, is accepted.
        With `told`, it is done as a job, which may take as long as it will: `told` hears its stages and their progress.

        Raises:
            AdapterInvalid: it does not fit the base; `problems` has every reason.
            PathNotAllowed: the path or address lies outside what the server allows.
            Conflict: the name is taken and `replace` is false.
        """
        options = wire.adding(mode, replace, allow_pickle, canary, sha256, defaults)
        call = wire.add_adapter(name, str(path), options)
        if told is None:
            return await self._client.send(call)
        return await self._client.jobs.follow(await self._client.send(wire.begun(call)), told)

    async def upload(
        self,
        name: str,
        path: Path | str,
        *,
        mode: str = "drain",
        replace: bool = True,
        allow_pickle: bool = False,
        canary: float | None = None,
        sha256: str = "",
        defaults: Mapping[str, Any] | None = None,
        told: Progress | None = None,
    ) -> Change:
        """Send the adapter at `path`, a folder, archive or GGUF file of this machine, and serve it under `name`.

        The options are those of `add`; `told` hears first how much has been sent. Raises what `add` does.

        Raises:
            FilesNotFound: there is nothing at `path`.
            BodyTooLarge: the server takes no adapter of this size.
        """
        options = wire.adding(mode, replace, allow_pickle, canary, sha256, defaults)
        call, content = wire.upload(name, options), _in_turn(packed(Path(path), told))
        if told is None:
            return await self._client.send(call, content)
        return await self._client.jobs.follow(await self._client.send(wire.begun(call), content), told)

    async def begin_add(
        self,
        name: str,
        path: Path | str,
        *,
        mode: str = "drain",
        replace: bool = True,
        allow_pickle: bool = False,
        canary: float | None = None,
        sha256: str = "",
        defaults: Mapping[str, Any] | None = None,
        upload: bool = False,
    ) -> Job:
        """Do what `add` does (with `upload`, once the files are sent) as a job; `client.jobs` follows it."""
        options = wire.adding(mode, replace, allow_pickle, canary, sha256, defaults)
        if upload:
            return await self._client.send(wire.begun(wire.upload(name, options)), _in_turn(packed(Path(path))))
        return await self._client.send(wire.begun(wire.add_adapter(name, str(path), options)))

    async def check(self, path: Path | str, *, allow_pickle: bool = False) -> Report:
        """Check the adapter at `path` against the base; nothing is registered."""
        return await self._client.send(wire.check_adapter(str(path), allow_pickle))

    async def promote(self, name: str, version: int, alias: str = DEFAULT_ALIAS, *, mode: str = "drain") -> Change:
        """Point an alias at a version. With the alias `default`, that is what the bare name means."""
        return await self._client.send(wire.promote(name, version, alias, mode))

    async def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias; the versions stay."""
        await self._client.send(wire.remove_alias(name, alias))

    async def rollback(self, name: str, *, mode: str = "drain") -> Change:
        """Go back to the version that the name meant before the last change."""
        return await self._client.send(wire.rollback(name, mode))

    async def canary(self, name: str, shares: Mapping[int, float]) -> AdapterView:
        """Let versions share the requests for the bare name; what is missing to 100 percent stays where it is."""
        return await self._client.send(wire.canary(name, shares))

    async def end_canary(self, name: str) -> AdapterView:
        """Give all requests back to the version that the name means. Raises AdapterNotFound where no canary runs."""
        return await self._client.send(wire.end_canary(name))

    async def shadow(self, name: str, version: int, percent: float = 100.0) -> AdapterView:
        """Let a version get a copy of part of the requests for the bare name; its answers are only recorded."""
        return await self._client.send(wire.shadow(name, version, percent))

    async def end_shadow(self, name: str) -> AdapterView:
        """End the copies. Raises AdapterNotFound where the name has no shadow."""
        return await self._client.send(wire.end_shadow(name))

    async def configure(self, name: str, defaults: Mapping[str, Any], version: int | None = None) -> AdapterView:
        """Set what requests for a version may leave out; for None, of the one that the name means.

        `defaults` may have `system`, `chat_template`, `sampling` (numbers by name) and `stop`; what it lacks is unset.
        """
        return await self._client.send(wire.configure(name, defaults, version))

    async def remove(self, name: str, version: int | None = None) -> None:
        """Remove an adapter with all its versions, or one version. Raises Conflict where an alias points to it."""
        await self._client.send(wire.remove(name, version))

    async def history(self, name: str) -> Entries:
        """Return every change of an adapter."""
        return await self._client.send(wire.history(name))


async def _in_turn(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece

"""The synchronous HTTP client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from loradex.client import compare_wire, wire
from loradex.client.answer import Answer, Piece
from loradex.client.comparison import CompareEvent, Comparison
from loradex.client.decision import Decision
from loradex.client.jobs import Jobs, Progress
from loradex.client.packing import packed
from loradex.client.reply import body, patience, read, unreachable
from loradex.client.views import AdapterView, Change, HistoryEntry, Info, InvalidView, Job, Report, ResidentView
from loradex.core.adapter import DEFAULT_ALIAS

T = TypeVar("T")
Views = list[AdapterView]
Entries = list[HistoryEntry]
Invalids = list[InvalidView]


class Client:
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
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            trust_env=not wire.is_loopback(self.url),
        )
        self.adapters = Adapters(self)
        self.jobs = Jobs(self.send)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def info(self) -> Info:
        """Return what the server is: its version, base model, limits and load."""
        return self.send(wire.info())

    def resident(self) -> list[ResidentView]:
        """Return the adapters that the engine holds now."""
        return self.send(wire.resident())

    def load(self, adapter: str) -> Change:
        """Make an adapter resident before anybody asks for it.

        Raises:
            AdapterNotFound: there is none of that name.
            Overloaded: every slot is in use.
        """
        return self.send(wire.load(adapter))

    def unload(self, name: str, *, mode: str = "detach", timeout: float = 30.0) -> None:
        """Free an adapter's slot; it is loaded again when asked for.

        With `mode` `detach` that happens once its answers have ended; `drain` waits for them, and `force` ends them.

        Raises:
            AdapterNotFound: there is none of that name.
            Conflict: it is pinned, or in use for more than `timeout` seconds.
        """
        self.send(wire.unload(name, mode, timeout))

    def pin(self, adapter: str) -> Change:
        """Make an adapter resident, and keep it so until it is unpinned or the server stops. Raises what `load` does.

        A pinned name stays pinned when it gets another version.
        """
        return self.send(wire.pin(adapter))

    def unpin(self, adapter: str) -> None:
        """Let an adapter that was pinned make room for others again. Raises AdapterNotFound where it was not."""
        self.send(wire.unpin(adapter))

    def route(self, text: str) -> Decision:
        """Return which adapter the model `auto` would take for a prompt, and why.

        Raises:
            ModelNotFound: the server has no router.
        """
        return self.send(wire.route(text))

    def chat(self, model: str, messages: wire.Messages, **options: Any) -> Answer:
        """Return a chat completion; `options` are the fields of OpenAI's API (`max_tokens`, `temperature` ...).

        Raises:
            ModelNotFound: `model` names neither the base nor an adapter.
            InvalidRequest: an option has a wrong value.
        """
        return self.send(wire.chat(model, messages, False, options))

    def complete(self, model: str, prompt: str | Sequence[int], **options: Any) -> Answer:
        """Return the completion of a text or of token ids. Raises what `chat` raises."""
        return self.send(wire.complete(model, prompt, False, options))

    def stream(self, model: str, messages: wire.Messages, **options: Any) -> Stream:
        """Start a chat completion that arrives in pieces. Use it in a `with` block. Raises what `chat` raises."""
        return Stream(self.url, self._open(wire.chat(model, messages, True, options)))

    def compare(
        self, prompt: wire.Messages, sides: Sequence[str], *, reference: str = "", **options: Any
    ) -> Comparison:
        """Return what several sides (adapters, versions, mixes, `base`, `auto`) say to one prompt, in one batch.

        With a `reference`, each side also tells how likely it finds that answer. A side that fails has an `error`.

        Raises:
            InvalidRequest: there is no side, or an option has a wrong value.
        """
        return self.send(compare_wire.compare(prompt, sides, reference, False, options))

    def compare_events(
        self, prompt: wire.Messages, sides: Sequence[str], *, reference: str = "", **options: Any
    ) -> Iterator[CompareEvent]:
        """Yield a comparison as it comes; the last event has all of it. Raises what `compare` raises."""
        reply = self._open(compare_wire.compare(prompt, sides, reference, True, options))
        try:
            for line in reply.iter_lines():
                if (event := compare_wire.read_compare_event(line)) is not None:
                    yield event
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        finally:
            reply.close()

    def _open(self, call: wire.Call[Any]) -> httpx.Response:
        """Make a call whose reply comes in pieces; whoever reads it closes it."""
        request = self._http.build_request(call.method, call.path, json=call.body)
        try:
            reply = self._http.send(request, stream=True)
            if reply.is_error:
                reply.read()
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        if not reply.is_error:
            return reply
        reply.close()
        raise wire.read_error(reply.status_code, body(reply))

    def send(self, call: wire.Call[T], content: Iterator[bytes] | None = None) -> T:
        """Make one call, with `content` in place of a JSON body, and read its reply."""
        try:
            reply = self._http.request(
                *(call.method, call.path),
                json=call.body,
                content=content,
                params=dict(call.params),
                timeout=patience(self._http.timeout, call),
            )
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        return read(self.url, call, reply)


class Stream:
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

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the answer; the server frees all that it held for it."""
        self._reply.close()

    def __iter__(self) -> Iterator[Piece]:
        try:
            for line in self._reply.iter_lines():
                piece = wire.read_event(line)
                if piece is not None:
                    self.fingerprint = piece.fingerprint or self.fingerprint
                    self.finish_reason = piece.finish_reason or self.finish_reason
                    self.usage = piece.usage or self.usage
                    yield piece
        except httpx.HTTPError as error:
            raise unreachable(self._url, error) from error

    def text(self) -> str:
        """Wait for the end and return what is left of the text."""
        return "".join(piece.text for piece in self)


class Adapters:
    """The verbs of `loradex adapter`, over HTTP."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> Views:
        """Return every adapter."""
        return self._client.send(wire.list_adapters())

    def invalid(self) -> Invalids:
        """Return what lies in folders that the server watches and cannot be served."""
        return self._client.send(wire.invalid())

    def get(self, name: str) -> AdapterView:
        """Return one adapter with its versions. Raises AdapterNotFound."""
        return self._client.send(wire.get_adapter(name))

    def add(
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
            return self._client.send(call)
        return self._client.jobs.follow(self._client.send(wire.begun(call)), told)

    def upload(
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
        call, content = wire.upload(name, options), packed(Path(path), told)
        if told is None:
            return self._client.send(call, content)
        return self._client.jobs.follow(self._client.send(wire.begun(call), content), told)

    def begin_add(
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
            return self._client.send(wire.begun(wire.upload(name, options)), packed(Path(path)))
        return self._client.send(wire.begun(wire.add_adapter(name, str(path), options)))

    def check(self, path: Path | str, *, allow_pickle: bool = False) -> Report:
        """Check the adapter at `path` against the base; nothing is registered."""
        return self._client.send(wire.check_adapter(str(path), allow_pickle))

    def promote(self, name: str, version: int, alias: str = DEFAULT_ALIAS, *, mode: str = "drain") -> Change:
        """Point an alias at a version. With the alias `default`, that is what the bare name means."""
        return self._client.send(wire.promote(name, version, alias, mode))

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias; the versions stay."""
        self._client.send(wire.remove_alias(name, alias))

    def rollback(self, name: str, *, mode: str = "drain") -> Change:
        """Go back to the version that the name meant before the last change."""
        return self._client.send(wire.rollback(name, mode))

    def canary(self, name: str, shares: Mapping[int, float]) -> AdapterView:
        """Let versions share the requests for the bare name; what is missing to 100 percent stays where it is."""
        return self._client.send(wire.canary(name, shares))

    def end_canary(self, name: str) -> AdapterView:
        """Give all requests back to the version that the name means. Raises AdapterNotFound where no canary runs."""
        return self._client.send(wire.end_canary(name))

    def shadow(self, name: str, version: int, percent: float = 100.0) -> AdapterView:
        """Let a version get a copy of part of the requests for the bare name; its answers are only recorded."""
        return self._client.send(wire.shadow(name, version, percent))

    def end_shadow(self, name: str) -> AdapterView:
        """End the copies. Raises AdapterNotFound where the name has no shadow."""
        return self._client.send(wire.end_shadow(name))

    def configure(self, name: str, defaults: Mapping[str, Any], version: int | None = None) -> AdapterView:
        """Set what requests for a version may leave out; for None, of the one that the name means.

        `defaults` may have `system`, `chat_template`, `sampling` (numbers by name) and `stop`; what it lacks is unset.
        """
        return self._client.send(wire.configure(name, defaults, version))

    def remove(self, name: str, version: int | None = None) -> None:
        """Remove an adapter with all its versions, or one version. Raises Conflict where an alias points to it."""
        self._client.send(wire.remove(name, version))

    def history(self, name: str) -> Entries:
        """Return every change of an adapter."""
        return self._client.send(wire.history(name))

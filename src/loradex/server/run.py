"""Running the application: the socket, the signals and the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn

from loradex.engine.base import Progress
from loradex.errors import ConfigInvalid, EngineStopped, LoradexError
from loradex.server import logs
from loradex.server.app import create_app
from loradex.service.service import Service
from loradex.settings import ServerConfig

DRAIN_SECONDS = 30
"""How long answers under way may go on after the server was told to stop."""


class Server:
    """A real HTTP server over a service. It prints nothing; `url` says where it is once it is bound.

    Usage: `bind()`, so that a busy port shows before a model is loaded, then `run()`; or `background()` for both.

    Args:
        service: not started yet.
        config: where to listen, and who may ask for what.
        log_level: of the log, unless the program has set structlog up itself.
        drain_seconds: how long answers under way may go on after the server was told to stop.
        prepare: awaited when the service has started and before it takes its first request; what it raises ends the
            server.
    """

    def __init__(
        self,
        service: Service,
        config: ServerConfig,
        *,
        log_level: str = "info",
        drain_seconds: int = DRAIN_SECONDS,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._service = service
        self._config = config
        self._log_level = log_level
        self._prepare = prepare
        self._socket: socket.socket | None = None
        self._app = create_app(service, config)
        self._app.state.open = False
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                self._app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=drain_seconds,
                server_header=False,
                ws="none",
            )
        )

    def bind(self) -> str:
        """Take the port and return the server's address.

        Raises:
            ConfigInvalid: the port is taken, or the address is not this machine's.
        """
        if self._socket is None:
            self._socket = _bind(self._config.host, self._config.port)
        return self.url

    @property
    def url(self) -> str:
        """The server's address, without a trailing slash. Known once it is bound."""
        if self._socket is None:
            raise EngineStopped("The server has no address yet", hint="Call `bind()` first")
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self, progress: Progress | None = None, ready: Callable[[str], None] | None = None) -> None:
        """Start the service, serve until told to stop, let answers under way end, and stop the service.

        In the main thread SIGINT and SIGTERM stop it; a second one does not wait for answers. `ready` is called with
        the address when the first request can come.

        Raises:
            ConfigInvalid: the port is taken, or the model cannot be served.
        """
        asyncio.run(self.serve(progress, ready))

    async def serve(self, progress: Progress | None = None, ready: Callable[[str], None] | None = None) -> None:
        """Do what `run` does, in a running event loop."""
        logs.configure(self._log_level)
        url = self.bind()
        bound = [self._socket] if self._socket else None
        # Probes are answered while the model loads; everything else is told to come back.
        serving = asyncio.create_task(self._uvicorn.serve(sockets=bound))
        starting = asyncio.create_task(self._start(progress))
        try:
            await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                if ready is not None:
                    ready(url)
                await serving
        finally:
            self.stop()
            starting.cancel()
            await asyncio.gather(serving, starting, return_exceptions=True)
            self._socket = None
            await self._service.stop()

    async def _start(self, progress: Progress | None) -> None:
        await self._service.start(progress)
        if self._prepare is not None:
            await self._prepare()
        self._app.state.open = True

    def stop(self) -> None:
        """Tell the server to stop once its answers have ended. Safe from any thread."""
        self._uvicorn.should_exit = True

    @contextlib.contextmanager
    def background(self, progress: Progress | None = None) -> Iterator[str]:
        """Run in a thread of its own; yield the address when requests can come, and stop at the end.

        Raises:
            LoradexError: the server could not start.
        """
        started = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                self.run(progress, lambda _: started.set())
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
                failed.append(error)
            finally:
                started.set()

        url = self.bind()
        thread = threading.Thread(target=work, name="loradex-server", daemon=True)
        thread.start()
        started.wait()
        try:
            if not failed:
                yield url
        finally:
            self.stop()
            thread.join()
        if failed:
            raise failed[0]


class _Uvicorn(uvicorn.Server):
    """Uvicorn, with signals that end it well: the exit status is the program's own, not that of a killed process."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Uvicorn would note the signal and raise it again at its end, before the service has stopped.
        self.force_exit = self.should_exit
        self.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigInvalid(f"Cannot listen on {host!r}: {error.strerror}", hint="Use `--host 127.0.0.1`") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Listening now, not when the model is loaded: of two servers that start together, only one gets the port.
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise _refused(host, port, error) from error
    return bound


def _refused(host: str, port: int, error: OSError) -> LoradexError:
    if error.errno == errno.EADDRINUSE:
        return ConfigInvalid(f"Port {port} of {host} is in use", hint=f"Use another one: `--port {_free_port(host)}`")
    if error.errno == errno.EACCES:
        return ConfigInvalid(f"Port {port} needs more rights", hint="Use one above 1023: `--port 8000`")
    return ConfigInvalid(f"Cannot listen on {host}:{port}: {error.strerror}", hint="Use `--host 127.0.0.1`")


def _free_port(host: str) -> int:
    """Return a port that is free now; the error offers it."""
    with contextlib.closing(_bind(host, 0)) as probe:
        return int(probe.getsockname()[1])

"""Where a command works: on the running server if one answers, else in this process on the registry."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loradex.cli.output import Output
from loradex.errors import AuthenticationFailed, LoradexError, PermissionDenied
from loradex.registry.sources.address import located
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.cli.offline import Offline
    from loradex.client.client import Adapters, Client
    from loradex.client.vllm import VllmAdapters
    from loradex.engine.base import Progress

    Verbs = Adapters | VllmAdapters | Offline

_USUAL = ("127.0.0.1", 8000)
_PROBE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Target:
    """Finds who does the work. A server named by flag, environment or file must answer; the usual address may not."""

    settings: Settings
    out: Output

    def client(self, timeout: float = 600.0) -> Client:
        """Return a client. Its methods raise ServerUnreachable where no server answers."""
        from loradex.client.client import Client
        from loradex.client.wire import DEFAULT_URL

        return Client(self.settings.url or DEFAULT_URL, api_key=self.settings.api_key, timeout=timeout)

    def adapters(self, base: Path | None = None, progress: Progress | None = None) -> Verbs:
        """Return the verbs of `loradex adapter`, as the server has them. `base` is for work without one."""
        if self.settings.url:
            return self.served()
        if base is None and self.answers():
            return self.client().adapters
        from loradex.cli.offline import Offline

        self.out.say(f"no server asked: working on the registry in {self.settings.home}", style="dim")
        return Offline(self.settings, base, progress)

    def served(self) -> Adapters | VllmAdapters:
        """Return the same verbs of a server, ours or vLLM's; they raise ServerUnreachable where none answers."""
        from loradex.client.vllm import adapters_of

        return adapters_of(self.client())

    def place(self, source: str) -> str:
        """Return an adapter's source as the one who reads it finds it: in full, unless that is another machine."""
        from loradex.client.wire import is_loopback

        return source if self.settings.url and not is_loopback(self.settings.url) else located(source)

    def answers(self) -> bool:
        """Whether a server of ours answers at the usual address."""
        try:
            # Asked first, since importing the client takes longer than all the rest of a short command.
            socket.create_connection(_USUAL, _PROBE_SECONDS).close()
        except OSError:
            return False
        try:
            with self.client(timeout=_PROBE_SECONDS) as client:
                return client.info().product == "loradex"
        except (AuthenticationFailed, PermissionDenied):
            return True
        except LoradexError:
            return False

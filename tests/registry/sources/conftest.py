"""A web server of this machine that hands out a folder, and lists what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loradex.registry.sources.room import Room


class Files(SimpleHTTPRequestHandler):
    """Serves files; `/to/NAME/...` redirects to `...` on another name of this machine, `/fail` is a broken server."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/to/"):
            host, _, rest = self.path.removeprefix("/to/").partition("/")
            self.send_response(302)
            self.send_header("Location", f"http://{host}:{self.server.server_address[1]}/{rest}")
            self.end_headers()
        elif self.path.startswith("/fail"):
            self.send_error(503)
        elif self.path.startswith("/cut"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"too little")
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Web:
    """Where the server is, the folder that it serves, and the paths that it was asked for."""

    def __init__(self, server: ThreadingHTTPServer, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.folder = folder
        self.asked: list[str] = server.asked  # type: ignore[attr-defined]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield Web(server, folder)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def room(tmp_path: Path) -> Room:
    folder = tmp_path / "room"
    folder.mkdir()
    return Room(folder, 1 << 20, "the source")

"""The Hub's part of the door, with the real client against a server that speaks as much of the Hub as it asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.making import make_adapter

from .packing import contents

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import json, sys
from pathlib import Path
from loradex.errors import LoradexError
from loradex.registry.registry import Registry
from tests.adapters.making import BASE
from loradex.registry.sources.access import Access
registry = Registry(Path(sys.argv[1]))
said = []
for source, urls in json.loads(sys.argv[2]):
    try:
        with registry.fetched(source, 1 << 20, access=Access((), urls) if urls else Access()) as found:
            staged = registry.stage(found.path, BASE, max_rank=16, allowed=found.allowed, origin=found.origin)
        said.append([staged.adapter.digest, staged.source])
    except LoradexError as error:
        said.append([error.code, error.message])
print(json.dumps(said))
"""


class Hub(BaseHTTPRequestHandler):
    """One repository `acme/medical`, whose branches `main` and `v1` are the same commit."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, whole: bool) -> None:
        path = self.path.partition("?")[0]
        for revision in ("main", "v1", COMMIT):
            start = f"/acme/medical/resolve/{revision}/"
            if path in ("/api/models/acme/medical", f"/api/models/acme/medical/revision/{revision}"):
                siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
                body = json.dumps({"id": "acme/medical", "sha": COMMIT, "siblings": siblings}).encode()
                return self._send(200, body, whole, {"Content-Type": "application/json"})
            if path.startswith(start) and (body := self.files.get(path.removeprefix(start))) is not None:
                tag = f'"{hash(body) & 0xFFFFFFFF:040x}"'
                return self._send(200, body, whole, {"X-Repo-Commit": COMMIT, "ETag": tag})
        code = "RevisionNotFound" if "acme/medical" in path else "RepoNotFound"
        return self._send(404, b"", whole, {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, whole: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if whole:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    files = contents(make_adapter(tmp_path / "medical"))
    Hub.files = {**files, **{f"inner/{name}": content for name, content in files.items()}, "model.safetensors": b"x"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(tmp_path: Path, endpoint: str, *asked: tuple[str, list[str]], offline: bool = False) -> list[list[str]]:
    environ = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    environ |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "home"), json.dumps(asked)]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    found: list[list[str]] = json.loads(ran.stdout)
    return found


def test_adapters_come_at_their_commit_and_once(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    plain, tagged, inner, short, refused, unknown, nobody, empty = ask(
        tmp_path,
        endpoint,
        ("hf://acme/medical", []),
        ("hf://acme/medical@v1", []),
        ("hf://acme/medical/inner", []),
        ("acme/medical", ["hf://acme"]),
        ("acme/medical", ["hf://other"]),
        ("hf://acme/medical@none", []),
        ("hf://nobody/nothing", []),
        ("hf://acme/medical/none", []),
    )
    assert plain == tagged == short
    assert plain[1] == f"hf://acme/medical@{COMMIT}"
    assert inner == [plain[0], f"hf://acme/medical@{COMMIT}/inner"]
    assert refused[0] == "path_not_allowed"
    assert {unknown[0], nobody[0], empty[0]} == {"adapter_files_not_found"}
    cached = list((tmp_path / "hf").rglob("model.safetensors"))
    assert cached == []
    # Without the network what was fetched is still there, and what was not is said.
    again, missing = ask(tmp_path, endpoint, ("hf://acme/medical", []), ("hf://acme/legal", []), offline=True)
    assert again == plain
    assert missing[0] == "source_failed"


def pull(tmp_path: Path, endpoint: str, *words: object, offline: bool = False) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")}
    environ |= {"HF_HUB_OFFLINE": "1" if offline else "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "loradex", "adapter", "pull", *map(str, words)]
    return subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)


def test_pulled_at_its_commit_into_a_folder(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    ran = pull(tmp_path, endpoint, "acme/medical@v1", "--json")
    assert ran.returncode == 0, ran.stderr
    done = json.loads(ran.stdout)
    assert done["origin"] == f"hf://acme/medical@{COMMIT}"
    folder = tmp_path / "adapters" / "medical"
    files = contents(tmp_path / "medical")
    assert contents(folder) == files | {f"inner/{name}": content for name, content in files.items()}
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert os.listdir(tmp_path / "adapters") == ["medical"], "nothing of the work is left over"
    again = pull(tmp_path, endpoint, "acme/medical@v1")
    assert again.returncode == 1
    assert "--force" in again.stderr
    # Without network, what the cache has got is taken; for the rest there is the fallback, or the way to one.
    assert pull(tmp_path, endpoint, "acme/medical@v1", "--force", offline=True).returncode == 0
    none = pull(tmp_path, endpoint, "acme/legal", offline=True)
    assert none.returncode == 1
    assert "loradex adapter mock" in none.stderr
    assert "--fallback" in none.stderr
    assert os.listdir(tmp_path / "adapters") == ["medical"]
    taken = pull(tmp_path, endpoint, "acme/legal", "--fallback", "medical", "--json", offline=True)
    assert taken.returncode == 0, taken.stderr
    done = json.loads(taken.stdout)
    assert done["origin"] == str(tmp_path / "medical")
    assert "hf://acme/legal is not in the cache" in done["fell_back"]
    assert contents(tmp_path / "adapters" / "legal") == contents(tmp_path / "medical")

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import httpx
import pytest

from loradex.engine.base import Progress
from loradex.errors import ConfigInvalid, EngineStopped
from loradex.server.run import Server
from loradex.service.service import Service
from loradex.settings import ServerConfig

from .serving import eventually, make_service, served


def server(service: Service, **options: object) -> Server:
    return Server(service, ServerConfig(port=0), log_level="critical", **options)  # type: ignore[arg-type]


def test_a_server_runs_in_the_background_and_stops(tmp_path: Path) -> None:
    with served(tmp_path) as deck:
        assert deck.url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{deck.url}/ready").json() == {"ready": True}
    assert not deck.service.ready
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{deck.url}/health")


def test_a_busy_port_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    service, _ = make_service(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigInvalid, match=f"Port {port} of 127.0.0.1 is in use") as caught:
            Server(service, ServerConfig(port=port)).bind()
    assert "`--port " in caught.value.hint
    assert str(port) not in caught.value.hint
    assert not service.ready


def test_two_servers_cannot_have_one_port(tmp_path: Path) -> None:
    service, _ = make_service(tmp_path)
    first = server(service)
    port = int(first.bind().rpartition(":")[2])
    with pytest.raises(ConfigInvalid, match="in use"):
        Server(service, ServerConfig(port=port)).bind()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_that_is_not_ours_is_told(tmp_path: Path, host: str) -> None:
    service, _ = make_service(tmp_path)
    with pytest.raises(ConfigInvalid, match="Cannot listen"):
        Server(service, ServerConfig(host=host, port=0)).bind()


def test_there_is_no_address_before_it_is_bound(tmp_path: Path) -> None:
    with pytest.raises(EngineStopped):
        _ = server(make_service(tmp_path)[0]).url


def test_probes_are_answered_while_the_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, engine = make_service(tmp_path)
    go, start = threading.Event(), engine.start

    async def slow(progress: Progress | None = None) -> None:
        await asyncio.to_thread(go.wait)
        await start(progress)

    monkeypatch.setattr(engine, "start", slow)
    stages: list[tuple[str, float]] = []
    running = server(service)
    url = running.bind()
    ready = threading.Event()
    thread = threading.Thread(target=lambda: running.run(lambda *stage: stages.append(stage), lambda _: ready.set()))
    thread.start()
    try:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/ready").status_code == 503
        reply = httpx.get(f"{url}/v1/models")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_stopped")
        go.set()
        assert ready.wait(5)
        assert httpx.get(f"{url}/ready").status_code == 200
        assert stages == [("weights", 1.0)]
    finally:
        go.set()
        running.stop()
        thread.join()


def test_a_server_can_be_stopped_while_its_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, engine = make_service(tmp_path)

    async def forever(progress: Progress | None = None) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(engine, "start", forever)
    running = server(service)
    url = running.bind()
    thread = threading.Thread(target=running.run)
    thread.start()
    assert httpx.get(f"{url}/health").status_code == 200
    running.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_a_model_that_cannot_be_served_ends_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, engine = make_service(tmp_path)

    async def fail(progress: Progress | None = None) -> None:
        raise ConfigInvalid("no such model")

    monkeypatch.setattr(engine, "start", fail)
    with pytest.raises(ConfigInvalid, match="no such model"), server(service).background():
        pytest.fail("it must not get here")


def test_what_prepares_the_server_comes_before_the_first_request(tmp_path: Path) -> None:
    service, _ = make_service(tmp_path)
    seen: list[bool] = []

    async def prepare() -> None:
        seen.append(service.ready)

    with server(service, prepare=prepare).background() as url:
        assert seen == [True]
        assert httpx.get(f"{url}/ready").status_code == 200


def test_what_prepares_the_server_may_end_it(tmp_path: Path) -> None:
    service, _ = make_service(tmp_path)

    async def prepare() -> None:
        raise ConfigInvalid("bad adapter")

    with pytest.raises(ConfigInvalid, match="bad adapter"), server(service, prepare=prepare).background():
        pytest.fail("it must not get here")
    assert not service.ready


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.server.serving import make_service
from loradex.server.run import Server
from loradex.settings import ServerConfig

service, _ = make_service(Path({home!r}), tokens_per_second=40.0)
Server(service, ServerConfig(port=0), log_level="info").run(ready=lambda url: print(url, flush=True))
print("stopped", service.ready, flush=True)
"""


@pytest.fixture
def process(tmp_path: Path) -> subprocess.Popen[str]:
    program = textwrap.dedent(PROGRAM).format(root=str(Path(__file__).parents[2]), home=str(tmp_path))
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_lets_answers_end(process: subprocess.Popen[str]) -> None:
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        body = {"prompt": "hello", "max_tokens": 50, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=10) as reply:
            lines = reply.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            text = first + "".join(lines)
        assert text.endswith("data: [DONE]")
        assert process.wait(10) == 0
        assert process.stdout.read() == "stopped False\n"
        assert process.stderr is not None
        log = process.stderr.read()
        assert '"path": "/v1/completions"' in log
        assert "Traceback" not in log


def test_a_second_signal_does_not_wait(process: subprocess.Popen[str]) -> None:
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        body = {"prompt": "x" * 400, "max_tokens": 400, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=10) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            host, port = url.removeprefix("http://").split(":")
            assert eventually(lambda: socket.socket().connect_ex((host, int(port))) != 0)
            process.send_signal(signal.SIGINT)
            assert process.wait(5) == 0

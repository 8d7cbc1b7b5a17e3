from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from loradex import errors
from loradex.adapters.formats.safetensors_file import read_safetensors
from loradex.adapters.formats.torch_file import write_torch_file
from loradex.client import wire
from loradex.client.client import Client
from loradex.client.reply import patience
from loradex.client.views import Job
from tests.client.conftest import Served
from tests.server.serving import eventually, served


def test_an_add_as_a_job(server: Served) -> None:
    job = server.client.adapters.begin_add("medical", server.medical)
    assert job.target == "medical"
    seen: list[Job] = []
    job = server.client.jobs.wait(job.id, told=seen.append)
    assert job.result is not None
    assert (job.state, job.result.version, job.error) == ("done", 1, None)
    failed = server.client.jobs.wait(server.client.adapters.begin_add("x", server.broken).id)
    assert isinstance(failed.error, errors.AdapterInvalid)
    assert [each.target for each in server.client.jobs.list()] == ["x", "medical"]
    with pytest.raises(errors.Conflict):
        server.client.jobs.cancel(job.id)


def test_what_is_followed_tells_its_stages(server: Served) -> None:
    heard: list[str] = []
    adapters = server.client.adapters

    def told(stage: str, share: float) -> None:
        heard.append(stage)

    assert adapters.add("medical", server.medical, told=told).version == 1
    assert adapters.upload("medical", server.medical2, told=told).version == 2
    assert "upload" in heard
    assert adapters.begin_add("medical", server.medical, upload=True).kind == "add"
    with pytest.raises(errors.AdapterInvalid) as refused:
        adapters.add("x", server.broken, told=told)
    assert refused.value.problems
    states = [server.client.jobs.wait(each.id).state for each in server.client.jobs.list()]
    assert states == ["failed", "done", "done", "done"]
    assert [each.version for each in adapters.get("medical").versions] == [1, 2]


def test_an_interrupt_cancels_what_is_followed(server: Served) -> None:
    server.deck.engine.loads_allowed.clear()

    def interrupt(stage: str, share: float) -> None:
        if stage == "load":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.client.adapters.add("medical", server.medical, told=interrupt)
    (job,) = server.client.jobs.list()
    assert server.client.jobs.wait(job.id).state == "cancelled"
    with pytest.raises(errors.Conflict, match="was cancelled"):
        server.client.jobs.follow(job, interrupt)
    assert server.client.adapters.list() == []


def test_a_server_that_was_asked_to_wait_may() -> None:
    usual = httpx.Timeout(20, connect=5)
    assert patience(usual, wire.unload("medical", "drain", 3600)) == httpx.Timeout(3620, connect=5)
    assert patience(usual, wire.info()) == usual
    assert patience(httpx.Timeout(None), wire.unload("medical", "drain", 3600)) == httpx.Timeout(None)


def test_the_life_of_an_adapter(server: Served) -> None:
    client = server.client
    first = client.adapters.add("medical", server.medical)
    assert (first.name, first.version, first.previous) == ("medical", 1, None)
    second = client.adapters.add("medical", server.medical2)
    assert second.previous is not None
    assert (second.version, second.previous.version, second.previous.digest) == (2, 1, first.digest)

    seen = client.adapters.get("medical")
    assert [each.version for each in seen.versions] == [1, 2]
    assert seen.current_version is not None
    assert seen.current_version.digest == second.digest
    assert seen.current_version.config["r"] == 4
    assert client.adapters.list() == [replace(seen, versions=tuple(replace(each, config={}) for each in seen.versions))]

    assert client.adapters.rollback("medical").version == 1
    assert client.adapters.promote("medical", 2, "canary").version == 2
    assert client.adapters.get("medical").aliases == {"default": 1, "canary": 2}
    client.adapters.remove_alias("medical", "canary")
    history = client.adapters.history("medical")
    assert [each.action for each in history] == ["remove_alias", "promote", "rollback", "add", "add"]
    client.adapters.remove("medical")
    assert client.adapters.list() == []


def test_what_the_engine_holds(server: Served) -> None:
    client = server.client
    client.adapters.add("medical", server.medical)
    assert [(each.name, each.version) for each in client.resident()] == [("medical", 1)]
    client.unload("medical", mode="drain", timeout=5)
    assert client.resident() == []
    assert client.load("medical").name == "medical"
    assert client.resident()[0].bytes > 0
    assert client.pin("medical").version == 1
    assert client.resident()[0].pinned
    with pytest.raises(errors.Conflict):
        client.unload("medical")
    client.unpin("medical")
    with pytest.raises(errors.AdapterNotFound):
        client.unpin("medical")
    row = client.resident()[0]
    assert (row.pinned, row.tier, row.misses, row.hits, row.loads, row.evictions) == (False, "device", 2, 1, 2, 0)


def test_defaults(server: Served) -> None:
    client = server.client
    client.adapters.add("medical", server.medical, defaults={"system": "Be one."})
    client.adapters.upload("medical", server.medical2, defaults={"sampling": {"max_tokens": 3}})
    assert [dict(each.defaults) for each in client.adapters.get("medical").versions] == [
        {"system": "Be one."},
        {"sampling": {"max_tokens": 3}},
    ]
    found = client.adapters.configure("medical", {"stop": ["END"]}, 1)
    assert found.versions[0].defaults == {"stop": ["END"]}
    assert client.adapters.configure("medical", {}).versions[1].defaults == {}


def test_info(server: Served) -> None:
    info = server.client.info()
    assert info.product == "loradex"
    assert info.model["id"] == "tiny-base"
    assert info.limits["max_loras"] == 4


def test_a_check_reports_and_stores_nothing(server: Served) -> None:
    good = server.client.adapters.check(server.medical)
    bad = server.client.adapters.check(server.broken)
    assert good.ok
    assert good.modules == ("q_proj", "v_proj")
    assert not bad.ok
    assert bad.problems[0].fix
    assert server.client.adapters.list() == []


def test_pickled_weights_are_checked_where_that_is_allowed(server: Served) -> None:
    weights = server.medical / "adapter_model.safetensors"
    write_torch_file(server.medical / "adapter_model.bin", read_safetensors(weights))
    weights.unlink()
    assert [each.code for each in server.client.adapters.check(server.medical).problems] == ["pickle"]
    assert server.client.adapters.check(server.medical, allow_pickle=True).ok


def test_answers(server: Served) -> None:
    client = server.client
    digest = client.adapters.add("medical", server.medical).digest
    answer = client.chat("medical", "hello")
    assert answer.adapter == "medical@1"
    assert digest[:12] in answer.fingerprint
    assert answer.text.startswith(digest[:8])
    assert answer.usage["completion_tokens"] > 0
    assert client.complete("base", "hello", max_tokens=40).text == "base: hello"
    assert client.complete("base", [104, 105], max_tokens=40).text == "base: hi"


def test_a_stream_says_the_same_and_who_says_it(server: Served) -> None:
    client = server.client
    client.adapters.add("medical", server.medical)
    whole = client.chat("medical", "hello")
    with client.stream("medical", "hello") as stream:
        assert stream.adapter == "medical@1"
        pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert stream.finish_reason == "stop"
    assert stream.usage["completion_tokens"] == whole.usage["completion_tokens"]
    assert stream.fingerprint == whole.fingerprint


def test_closing_a_stream_frees_everything(tmp_path: Path) -> None:
    with served(tmp_path, tokens_per_second=10) as deck, Client(deck.url) as client:
        with client.stream("base", "x" * 200) as stream:
            pieces = iter(stream)
            assert next(piece.text for piece in pieces if piece.text)
            assert not deck.idle()
        assert eventually(deck.idle, 20.0)


@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        (errors.ModelNotFound, lambda s: s.client.chat("nobody", "x")),
        (errors.ModelNotFound, lambda s: s.client.stream("nobody", "x")),
        (errors.AdapterNotFound, lambda s: s.client.adapters.get("nobody")),
        (errors.AdapterNotFound, lambda s: s.client.load("nobody")),
        (errors.FilesNotFound, lambda s: s.client.adapters.add("x", s.deck.folder / "nothing")),
        (errors.PathNotAllowed, lambda s: s.client.adapters.add("x", "/etc")),
        (errors.InvalidRequest, lambda s: s.client.chat("base", "x", max_tokens=-1)),
        (errors.ContextLengthExceeded, lambda s: s.client.chat("base", "x" * 9999)),
    ],
)
def test_errors_come_back_as_what_they_are(server: Served, kind: type[errors.LoradexError], ask: object) -> None:
    with pytest.raises(errors.LoradexError) as caught:
        ask(server)  # type: ignore[operator]
    assert type(caught.value) is kind
    assert caught.value.message
    assert caught.value.hint


def test_a_refused_adapter_comes_back_with_every_problem(server: Served) -> None:
    with pytest.raises(errors.AdapterInvalid) as caught:
        server.client.adapters.add("broken", server.broken)
    assert caught.value.problems
    assert all(each.fix for each in caught.value.problems)


def test_a_taken_name_is_a_conflict_on_request(server: Served) -> None:
    server.client.adapters.add("medical", server.medical)
    with pytest.raises(errors.Conflict):
        server.client.adapters.add("medical", server.medical2, replace=False)


def test_keys(tmp_path: Path) -> None:
    with served(tmp_path, infer_keys=("reader",), admin_keys=("boss",)) as deck:
        with Client(deck.url) as nobody, pytest.raises(errors.AuthenticationFailed):
            nobody.info()
        with Client(deck.url, api_key="reader") as reader:
            assert reader.info().product == "loradex"
            with pytest.raises(errors.PermissionDenied):
                reader.adapters.remove("x")
        with Client(deck.url, api_key="boss") as boss, pytest.raises(errors.AdapterNotFound):
            boss.adapters.remove("x")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url) as client:
        for ask in (client.info, lambda: client.stream("base", "x")):
            with pytest.raises(errors.ServerUnreachable, match=url):
                ask()


def test_a_proxy_from_outside_does_not_stand_before_this_machine(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with Client(server.url) as client:
        assert client.info().product == "loradex"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(errors.ConfigInvalid, match="address"):
        Client(url)

"""What a watched folder holds and cannot be served is seen over HTTP and on the command line; all else goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loradex.cli.app import run
from loradex.client.client import Client
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.registry.registry import Registry
from loradex.server.run import Server
from loradex.service.service import Service
from loradex.settings import ServerConfig

from .serving import MAX_RANK, eventually, save_adapter


def test_invalid_entries_are_listed_with_their_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched = tmp_path / "watched"
    save_adapter(watched / "good")
    save_adapter(watched / "broken", broken=True)
    engine = FakeEngine(EngineConfig(model="models/tiny-base", max_model_len=512))
    service = Service(Registry(tmp_path / "home"), engine, max_lora_rank=MAX_RANK, watch=[watched], settle_seconds=0.05)
    with Server(service, ServerConfig(port=0), log_level="critical").background() as url, Client(url) as client:
        assert eventually(lambda: [each.name for each in client.adapters.list()] == ["good"])
        assert eventually(lambda: len(client.adapters.invalid()) == 1)
        (entry,) = client.adapters.invalid()
        assert (entry.name, entry.path, entry.code) == ("broken", str(watched / "broken"), "adapter_invalid")
        assert entry.problems[0].fix
        for command in (["adapter", "ls"], ["ps"]):
            assert run([*command, "--url", url]) == 0
            assert f"invalid: broken ({watched / 'broken'})" in capsys.readouterr().err
            assert run([*command, "--url", url, "--json"]) == 0
            assert [each["name"] for each in json.loads(capsys.readouterr().out)["invalid"]] == ["broken"]
        assert client.complete("good", "hello").adapter == "good@1"

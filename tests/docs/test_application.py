"""The snippets of the application page run one after another, as in `python -m asyncio`; and its example serves."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import loradex
from loradex.manager import manager

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "application.md").read_text(encoding="utf-8")
DEMO = Path(loradex.__file__).parent / "assets" / "demo"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as the page has it, in a process that has no manager yet."""
    os.symlink(DEMO / "base", tmp_path / "base")
    for adapter in (DEMO / "adapters").iterdir():
        shutil.copytree(adapter, tmp_path / adapter.name)
    [env] = blocks("ini")
    (tmp_path / ".env").write_text(env)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(manager, "_managers", [])
    monkeypatch.setenv("LORADEX_ENGINE__KV_CACHE_MEMORY", "64MiB")
    return tmp_path


def test_every_snippet_of_the_page_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    async def read() -> None:
        names: dict[str, object] = {"__name__": "page"}
        for snippet in blocks("python"):
            code = compile(snippet, "docs/application.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if code.co_flags & inspect.CO_COROUTINE:
                await eval(code, names)
            else:
                exec(code, names)
            said.append(capsys.readouterr().out)

    asyncio.run(read())
    text = "".join(said)
    assert next(line for line in said if line) in ("medicine\n", "law\n")
    assert "between 60 and 100 beats per minute" in text
    assert "naming\n['concept', 'naming']\n" in text
    assert "Finding True\n" in text
    assert "Status: loaded\n" in text
    assert "Active adapter: None\nAvailable: ['concept', 'naming']\n" in text
    assert "['concept', 'naming', 'relationship']\n" in text
    [shown] = blocks("text")
    for line in shown.splitlines():
        assert re.split(r"\(\d", line)[0] in text  # how much is free differs from machine to machine


def test_the_example_answers_typed_requests_from_settings(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("fastapi_app", ROOT / "examples" / "fastapi_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    with TestClient(module.app) as client:
        assert client.get("/model").json()["status"] == "not_loaded"
        question = {"text": "What is a normal resting heart rate for adults?"}
        concept = client.post("/concepts", json=question)
        assert concept.status_code == 200, concept.text
        assert concept.json().keys() == {"name", "important"}
        name = client.post("/names", json=question).json()
        assert client.post("/names/stream", json=question).text == name
        status = client.get("/model").json()
        assert (status["status"], status["use_count"], status["in_use"]) == ("loaded", 3, 0)
        unknown = client.get("/model", params={"name": "attribute"})
        assert (unknown.status_code, unknown.json()["error"]) == (404, "adapter_not_found")
        assert "attribute_adapter_path" in unknown.json()["hint"]

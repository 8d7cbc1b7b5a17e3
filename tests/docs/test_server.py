"""The page for those who come from other servers: its files, commands and snippets, one after another."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import loradex
from loradex.cli.app import run

ROOT = Path(__file__).parents[2]
DEMO = Path(loradex.__file__).parent / "assets" / "demo"
PAGE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as the page has it, in which everything runs."""
    folder = tmp_path_factory.mktemp("page")
    os.symlink(DEMO / "base", folder / "base")
    for name, where in (("medical", "medical"), ("legal", "legal"), ("medical", "loras/0"), ("legal", "loras/1")):
        shutil.copytree(DEMO / "adapters" / name, folder / where)
    for text in blocks("yaml"):
        (folder / text.split()[1]).write_text(text, encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def url(place: Path) -> Iterator[str]:
    """The page's own command, on a free port."""
    [command] = [text for text in blocks("bash") if text.startswith("loradex serve")]
    argv = [sys.executable, "-m", *shlex.split(command), "--port", "0", "--home", str(place / "home"), "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = ""
        while not said.endswith("}\n") and (line := server.stdout.readline()):
            said += line
        yield str(json.loads(said)["url"])
        server.terminate()
        assert server.wait(120) in (0, -15, 143)


def loradex_says(capfd: pytest.CaptureFixture[str], command: str) -> dict[str, Any]:
    capfd.readouterr()
    code = run([*shlex.split(command.replace("\\\n", " "))[1:], "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    value: dict[str, Any] = json.loads(out)
    return value


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(place: Path, url: str, capfd: pytest.CaptureFixture[str]) -> None:
    [client] = blocks("python")
    exec(compile(client.replace(ADDRESS, url), "docs/server.md", "exec"), {})
    assert capfd.readouterr().out.startswith("lora-example-0@1 ")
    *curls, rows = (text for text in blocks("bash") if not text.startswith("loradex "))
    for script in ("".join(curls).replace(ADDRESS, url), rows):
        ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        if script != rows:
            assert '"model":"medical, ' in ran.stdout
            assert '"generated_text":' in ran.stdout
            assert '"content":"yes"' in ran.stdout or '"content":"no"' in ran.stdout
            assert '"token_logprobs":[null,-' in ran.stdout
            assert '"prompt_logprobs":[null,{' in ran.stdout
    throughput, served = (text for text in blocks("bash") if text.startswith("loradex bench "))
    found = loradex_says(capfd, throughput)
    assert (found["completed"], found["total_output_tokens"]) == (3, 24)
    assert found["adapters"] == {"base": 1, "lora_0@1": 1, "lora_1@1": 1}
    found = loradex_says(capfd, served.replace(ADDRESS, url))
    assert (found["completed"], found["adapters"]) == (8, {"medical": 4, "lora-example-0": 4})


@pytest.mark.parametrize("system", ["TensorRT-LLM's page", "LoRAX"])
def test_every_line_of_the_table_names_a_counterpart(system: str) -> None:
    section = PAGE.partition(f"## From {system}, ")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 12
    assert all(len(re.sub(r"`[^`]*`", "x", row).strip("| ").split(" | ")) == 2 for row in rows)

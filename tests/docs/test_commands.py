"""Every command and snippet of README and quickstart runs, against the real server on the demo model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import loradex
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.registry.registry import Registry
from loradex.server.run import Server
from loradex.service.service import Service
from loradex.settings import ServerConfig

ROOT = Path(__file__).parents[2]
DEMO = Path(loradex.__file__).parent / "assets" / "demo"
ADDRESS = "http://127.0.0.1:8000"
GUIDES = ("quickstart", "versions", "sources", "merging", "routing", "compare", "operations")
PAGES = ["README.md", *(f"docs/{name}.md" for name in GUIDES)]


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page. Blocks without a language are shown, not run."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: the demo's adapters lie in it."""
    folder = tmp_path_factory.mktemp("reader")
    for adapter in (DEMO / "adapters").iterdir():
        shutil.copytree(adapter, folder / adapter.name)
    return folder


@pytest.fixture(scope="module")
def url(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    service = Service(
        Registry(tmp_path_factory.mktemp("home")),
        LocalEngine(EngineConfig(model=str(DEMO / "base"), kv_cache_memory=1 << 26)),
        max_lora_rank=64,
        allow_dirs=[place],
    )

    async def prepare() -> None:
        for name in ("medical", "legal", "technical"):
            await service.adapters.add(name, place / name, trusted=True)

    with Server(service, ServerConfig(port=0, allow_dirs=(place,)), prepare=prepare).background() as address:
        yield address


def run(script: list[str], place: Path, url: str) -> str:
    environment = os.environ | {"LORADEX_URL": url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(script, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_script(script: str, place: Path, url: str) -> str:
    """Run shell commands with the address and the folder of this test in place of the page's."""
    here = script.replace(ADDRESS, url).replace('"/adapters/', f'"{place}/')
    return run(["bash", "-euo", "pipefail", "-c", here], place, url)


@pytest.mark.parametrize("page", PAGES)
def test_python_snippets_run(page: str, place: Path, url: str) -> None:
    for snippet in blocks(page, "python"):
        assert run([sys.executable, "-c", snippet.replace(ADDRESS, url)], place, url).strip()


@pytest.mark.parametrize("page", PAGES)
def test_shell_commands_run(page: str, place: Path, url: str) -> None:
    for script in blocks(page, "bash"):
        if "make " not in script:  # the targets of make are run by .ci/run
            run_script(script, place, url)


def test_the_calls_of_vllm_do_what_they_say(place: Path, url: str) -> None:
    script = next(each for each in blocks("docs/operations.md", "bash") if "unload_lora_adapter" in each)
    before_unload = script.rpartition("curl ")[0]
    said = run_script(before_unload, place, url)
    added = "Success: LoRA adapter 'my-adapter' added successfully."
    nothing, answer, models = said.split(added)
    assert not nothing
    assert json.loads(answer)["model"] == "my-adapter"
    cards = {card["id"]: card for card in json.loads(models)["data"]}
    assert cards["my-adapter"]["root"].endswith("medical-v2")
    assert cards["my-adapter"]["parent"] == next(card["id"] for card in cards.values() if card["parent"] is None)
    said = run_script("curl " + script.rpartition("curl ")[2], place, url)
    assert said == "Success: LoRA adapter 'my-adapter' removed successfully."


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_table_of_the_demo_model_is_what_was_measured() -> None:
    measured = json.loads((DEMO / "evaluation.json").read_text())["results"]["float32"]["table"]
    section = (ROOT / "README.md").read_text().partition("## The demo model is a toy")[2].partition("## ")[0]
    header, _, *rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    for name, *cells in rows:
        shown = dict(zip(header, map(float, cells), strict=True))
        assert shown == {column: measured[name][column] for column in header}

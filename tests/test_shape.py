"""The size of files and functions, the tree in the README, and torch as an island."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "loradex"
FILES = sorted(SOURCE.rglob("*.py"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions() -> Iterator[tuple[str, int]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(SOURCE)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_files_are_short() -> None:
    sizes = {str(path.relative_to(SOURCE)): lines(path) for path in FILES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert statistics.median(sizes.values()) < 150


def test_functions_are_short() -> None:
    sizes = dict(functions())
    assert {name: size for name, size in sizes.items() if size > 80} == {}
    assert sorted(sizes.values())[int(len(sizes) * 0.95)] <= 45


def test_no_file_is_named_for_nothing() -> None:
    assert [path for path in FILES if re.search(r"utils|common|helpers|misc", path.stem)] == []


def test_the_readme_draws_the_tree_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```(?:text)?\nsrc/loradex/\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    drawn = set(re.findall(r"^  (\w+)/ ", block[1], re.MULTILINE))
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert drawn == folders


HEAVY = ("torch", "transformers")
LIGHT = (
    "import loradex.cli.app",
    "import loradex; loradex.Client, loradex.AsyncClient, loradex.Service, loradex.Settings, loradex.AdapterRef",
    "import loradex.registry.registry",
    "import loradex.server.run",
    "import loradex.adapters.read, loradex.adapters.check, loradex.adapters.pickled",
    "import loradex.engine.factory, loradex.engine.fake",
    "from loradex.bench import latency, swap, scale, report, servers",
)


@pytest.mark.parametrize("code", LIGHT)
def test_torch_is_not_imported_for_what_needs_no_tensors(code: str) -> None:
    check = f"{code}\nimport sys\nsys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules) or None)"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


# What an interpreter without these packages does, done to one that has them.
BLOCKED = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from loradex.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["--help"], 0), (["serve", "--help"], 0), (["adapter", "ls"], 0), (["config", "show"], 0), (["ps"], 4)],
)
def test_commands_work_without_torch(argv: list[str], code: int, tmp_path: Path) -> None:
    # Port 9 is nobody's: no server of this machine may answer.
    environ = {"LORADEX_HOME": str(tmp_path), "PATH": "", "LORADEX_URL": "http://127.0.0.1:9" if code == 4 else ""}
    command = [sys.executable, "-c", BLOCKED, *argv]
    ran = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr


def test_a_missing_extra_says_how_to_install_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, "serve", "some-model", "--port", "0"]
    environ = {"LORADEX_HOME": str(tmp_path)}
    ran = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install 'loradex[local]'" in ran.stderr


def test_the_public_names_are_there() -> None:
    import loradex

    for name in loradex.__all__:
        assert getattr(loradex, name) is not None
    assert loradex.errors.LoradexError is loradex.LoradexError
    with pytest.raises(AttributeError):
        loradex.nothing  # noqa: B018

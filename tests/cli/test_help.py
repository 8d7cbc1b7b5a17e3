from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from loradex.cli.app import PROGRAM, root
from loradex.cli.help import help_page
from tests.cli.conftest import Loradex


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = list(commands(root()))

VLLM = {
    *("--lora-modules", "--enable-lora", "--max-loras", "--max-lora-rank", "--max-cpu-loras"),
    *("--max-num-seqs", "--max-num-batched-tokens", "--enable-prefix-caching", "--no-enable-prefix-caching"),
    *("--served-model-name", "--max-model-len", "--block-size", "--dtype", "--seed", "--host", "--port", "--api-key"),
}


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids=" ".join)
def test_every_command_has_help_with_two_examples_and_json(path: tuple[str, ...]) -> None:
    page = help_page(root(), [*path, "--help"], PROGRAM)
    assert page is not None
    assert page.count("loradex " + " ".join(path[:-1])) >= 3
    assert "--json" in page
    assert "--quiet" in page


def test_the_commands_are_those_of_the_issue() -> None:
    visible = {" ".join(path) for path, command in ALL if not command.hidden}
    names = (
        "add",
        "ls",
        "show",
        "check",
        "convert",
        "merge",
        "mock",
        "promote",
        "pull",
        "canary",
        "shadow",
        "rollback",
        "set",
        "rm",
        "history",
        "pull",
    )
    verbs = {f"adapter {verb}" for verb in names}
    others = {
        "serve",
        "run",
        "chat",
        "ps",
        "load",
        "unload",
        "pin",
        "unpin",
        "jobs ls",
        "jobs show",
        "jobs cancel",
        "route ask",
        "route evaluate",
        "compare",
        "demo",
        "hotfix-test",
        "doctor",
        "quantize",
        "export",
        "build",
        "infer",
        "config show",
        "config init",
    }
    measures = {
        f"bench {verb}"
        for verb in ("throughput", "latency", "serve", "swap", "scale", "start", "switch", "report", "model")
    }
    assert visible == verbs | others | measures


def test_help_is_printed_wherever_it_is_asked_for(loradex: Loradex) -> None:
    for argv in (["--help"], ["-h"], [], ["adapter"], ["serve", "-h"], ["serve", "x", "--port", "1", "--help"]):
        ran = loradex(*argv)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("Usage: loradex")


def test_vllms_flags_are_there() -> None:
    page = help_page(root(), ["serve", "--help"], PROGRAM) or ""
    assert set(page.replace(",", " ").split()) >= VLLM


@pytest.mark.parametrize(
    ("argv", "suggests"),
    [(["serv"], "serve"), (["adapter", "ad"], "add"), (["serve", "--max-lora", "1"], "--max-loras")],
)
def test_slips_get_a_suggestion(loradex: Loradex, argv: list[str], suggests: str) -> None:
    ran = loradex(*argv)
    assert ran.code == 2
    assert suggests in ran.err
    assert ran.err.splitlines()[-1].startswith("  fix: See `loradex")


def test_version(loradex: Loradex) -> None:
    assert loradex("--version").out.startswith("loradex 0.")

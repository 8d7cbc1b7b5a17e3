"""Every command of `loradex bench`, from start to end on the fake engine. Figures are only looked for, not at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loradex.bench.result import read_result
from loradex.engine.factory import engine_part
from tests.cli.conftest import Loradex, loradex
from tests.server.serving import save_adapter, served

__all__ = ["loradex"]

FAKE = ("--engine", "fake", "--pairs", "2", "--json", "--out")


def names(record: Path) -> list[str]:
    return [row.what for row in read_result(record).rows]


def test_throughput(loradex: Loradex, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    ran = loradex("bench", "throughput", "--batch", 4, "--input", 12, "--output", 6, *FAKE, file)
    assert ran.code == 0, ran.err
    assert names(file) == ["end to end", "prefill", "decode", "memory"]
    assert ran.json == json.loads(file.read_text())
    assert ran.json["workload"] | {"requests": 4, "popularity": "distinct"} == ran.json["workload"]
    assert [run["tokens"] for run in ran.json["raw"]["a"]] == [24, 24]
    assert len(ran.json["rows"][0]["ratios"]) == 2
    assert ran.json["machine"]["cores"]
    assert ran.json["versions"]["python"]


def test_throughput_for_people(loradex: Loradex) -> None:
    ran = loradex("bench", "throughput", "--batch", 2, "--output", 4, "--pairs", 2, "--engine", "fake", "--out", "-")
    assert ran.code == 0, ran.err
    for text in ("end to end", "distinct / base", "machine: ", "versions: ", "floor: not measured"):
        assert text in ran.out
    assert "too little" in ran.err


def test_another_setting_as_side_b(loradex: Loradex, tmp_path: Path) -> None:
    same = ("bench", "throughput", "--batch", 2, "--output", 4, *FAKE, tmp_path / "x.json", "--versus")
    ran = loradex(*same, "block_size=8")
    assert ran.code == 0, ran.err
    assert [row["b_name"] for row in ran.json["rows"]] == ["versus"] * 3
    assert loradex(*same, "nothing=1").code == 2
    assert loradex(*same, "block_size").code == 2


def test_latency(loradex: Loradex, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    ran = loradex(
        *("bench", "latency", "--requests", 6, "--batch", 3, "--rate", 500, "--popularity", "zipf"),
        *("--input", "4-9", "--output", "3-6", "--cv", 2, *FAKE, file),
    )
    assert ran.code == 0, ran.err
    assert names(file) == ["TTFT p50", "TTFT p95", "TTFT p99", "ITL p50", "ITL p95", "ITL p99"]
    paced = loradex("bench", "latency", "--requests", 4, "--batch", 2, "--load", 0.9, "--output", 3, *FAKE, file)
    assert paced.json["workload"]["rate"] > 0
    assert loradex("bench", "latency", "--cv", 0, *FAKE, file).code == 2


def test_swap(loradex: Loradex, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    ran = loradex("bench", "swap", "--batch", 2, "--output", 24, "--every", 2, *FAKE, file)
    assert ran.code == 0, ran.err
    assert names(file) == [
        *("cold load", "cold load over read", "warm load over read"),
        *("first token", "resident switch", "p99 gap while loading", "p99 gap while replacing"),
    ]
    assert ran.json["raw"]["loading"]["seconds"]
    assert ran.json["raw"]["replacing"]["seconds"]


def test_scale(loradex: Loradex, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    ran = loradex(
        *("bench", "scale", "--adapters", 9, "--slots", 3, "--batch", 3, "--requests", 12, "--output", 3),
        *(*FAKE, file),
    )
    assert ran.code == 0, ran.err
    assert names(file) == ["many adapters", "step time"]
    assert ran.json["raw"]["evictions"] > 0


def test_model_and_report(loradex: Loradex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deck = tmp_path / "deck"
    ran = loradex("bench", "model", deck, "--shape", "tiny", "--adapters", 2, "--json")
    assert ran.code == 0, ran.err
    assert len(ran.json["adapters"]) == 2
    assert loradex("bench", "model", deck, "--shape", "large").code == 2
    # In the repository results go where the report looks for them.
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    ran = loradex("bench", "throughput", "--model", deck, "--batch", 2, "--output", 3, *FAKE[:4], "--name", "mine")
    assert ran.code == 0, ran.err
    ran = loradex("bench", "report")
    assert ran.code == 0, ran.err
    assert "## mine" in ran.out
    assert loradex("bench", "report", tmp_path / "none", "--no-plots").code == 3
    assert loradex("bench", "throughput", "--model", tmp_path / "none").code == 2


def test_asking_a_server(loradex: Loradex, tmp_path: Path) -> None:
    ran = loradex("bench", "throughput", "--url", "http://127.0.0.1:9", *FAKE, "-")
    assert ran.code == 4


@pytest.fixture
def small_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local engine measures the machine in moments."""
    floor = engine_part("local", "floor")
    monkeypatch.setattr(floor, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(floor, "_GEMM", (8, 16, 8))


@pytest.mark.usefixtures("small_floor")
def test_start(loradex: Loradex, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    small = ("--kv-cache-memory", "4MiB", "--quantization", "int8")
    ran = loradex("bench", "start", *small, "--pairs", 1, "--json", "--out", file)
    assert ran.code == 0, ran.err
    assert names(file) == ["start"]
    [row] = ran.json["rows"]
    assert (row["a_name"], row["b_name"], len(row["ratios"])) == ("engine directory", "checkpoint", 1)
    assert row["floor"] > 0
    assert (ran.json["model"]["quantization"], ran.json["model"]["bytes"] > 1 << 20) == ("int8", True)
    refused = loradex("bench", "start", *FAKE, file)
    assert refused.code == 2
    assert "has no engine directories" in refused.error["message"]


@pytest.mark.usefixtures("small_floor")
def test_switch(loradex: Loradex, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    ran = loradex("bench", "switch", "--kv-cache-memory", "4MiB", "--pairs", 3, "--out", file)
    assert ran.code == 0, ran.err
    assert names(file) == ["switch call", "step after a switch"]
    told = read_result(file).raw
    assert sorted(told) == ["added", "step", "step_after_a_switch", "switch_call"]
    assert all(each["median"] <= each["p99"] for each in told.values())
    assert f"switch call: {told['switch_call']['median']:.3f} ms in the median" in ran.out + ran.err


@pytest.mark.usefixtures("small_floor")
def test_the_local_engine_has_a_floor(loradex: Loradex, tmp_path: Path) -> None:
    ran = loradex("bench", "model", tmp_path / "deck", "--shape", "tiny", "--adapters", 2)
    assert ran.code == 0, ran.err
    small = ("--kv-cache-memory", "4MiB", "--batch", 2, "--input", 6, "--output", 4)
    ran = loradex("bench", "throughput", "--model", tmp_path / "deck", *small, "--pairs", 1, "--json", "--out", "-")
    assert ran.code == 0, ran.err
    assert ran.json["floor"]["bandwidth"] > 0
    assert [row["what"] for row in ran.json["rows"]][-2:] == ["decode bandwidth", "memory"]
    assert all(row["floor"] for row in ran.json["rows"][:3])


def test_swap_on_servers_that_run(loradex: Loradex, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()

    with served(tmp_path / "one") as deck:
        versions = [save_adapter(deck.folder / f"v{seed}", seed=seed) for seed in range(3)]
        run = ("bench", "swap", "--url", deck.url, "--batch", 2, "--output", 12, "--every", 2)
        alone = loradex(
            *run, *(word for each in versions for word in ("--source", each)), *FAKE[2:], tmp_path / "x.json"
        )
        assert alone.code == 0, alone.err
        assert names(tmp_path / "x.json") == [*("load", "replace", "unload", "first token", "p99 gap while replacing")]
        assert all(len(row["a"]) == 2 and min(row["a"]) > 0 for row in alone.json["rows"])
        assert [len(row["b"]) for row in alone.json["rows"]] == [0, 0, 0, 2, 2]
        assert "| load |" in loradex("bench", "report", tmp_path / "x.json", "--out", tmp_path / "report").out
        assert loradex("adapter", "ls", "-q", "--url", deck.url).out == ""
        assert loradex(*run, "--source", versions[0], *FAKE[2:], "-").code == 2
        loradex("adapter", "add", "bench-hot", versions[0], "--url", deck.url)
        assert loradex(*run, *("--source", versions[0], "--source", versions[1]), *FAKE[2:], "-").code == 1
        assert loradex("adapter", "ls", "-q", "--url", deck.url).out == "bench-hot\n"

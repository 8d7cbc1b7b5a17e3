from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loradex.bench.floor import Floor
from loradex.bench.pairs import Pairs
from loradex.bench.report import gather, report
from loradex.bench.result import Result, read_result
from loradex.bench.table import Bar, cells, quantity, read_bars, summary
from loradex.errors import ConfigInvalid, FilesNotFound, MissingExtra

ROOT = Path(__file__).parents[2]
RESULT = Result(
    kind="throughput",
    name="mixed-16",
    rows=(
        Pairs("end to end", "distinct", "base", "tok/s", (80.0, 90.0, 85.0), (100.0, 100.0, 120.0), floor=200.0),
        Pairs("first token", "not resident", "resident", "s", (0.010, 0.012), (0.008, 0.009), "lower"),
    ),
    workload={"requests": 16},
    machine={"cpu": "A Processor", "cores": 2, "during": {"steal": 0.01, "others": 0.0, "idle": 0.02}},
    versions={"python": "3.11"},
    floor=Floor(47e9, 8e11, "bfloat16"),
    raw={"a": [{"seconds": 1.0}]},
    when="2026-01-01T00:00:00+00:00",
)
BARS = [
    Bar("16 mixed / base", "mixed-16", "end to end", 0.85, 0.92, "loradex bench"),
    Bar("first token", "mixed-16", "first token", 0.005, 0.001, "loradex bench", "difference"),
    Bar("not run", "other", "end to end", 1, 2, "loradex bench"),
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    RESULT.save(tmp_path / "runs" / "mixed-16.json")
    return tmp_path / "runs"


def test_a_result_survives_its_file(saved: Path) -> None:
    assert read_result(saved / "mixed-16.json") == RESULT


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigInvalid, match="no benchmark result"):
        read_result(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"schema": 99}')
    with pytest.raises(ConfigInvalid, match="schema 99"):
        read_result(tmp_path / "x.json")
    with pytest.raises(FilesNotFound):
        gather([tmp_path / "nothing-here"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FilesNotFound, match="no results"):
        gather([tmp_path / "empty"])


def test_the_table_shows_bars_ratios_floor_and_machine(saved: Path, tmp_path: Path) -> None:
    bars = tmp_path / "bars.json"
    names = ("what", "run", "row", "reach", "stretch", "command", "by")
    bars.write_text(json.dumps([{name: getattr(bar, name) for name in names} for bar in BARS]))
    assert read_bars(bars) == BARS
    text = report([saved], bars, None).text
    assert "| 16 mixed / base | 0.800 | 0.708-0.900 | 42% | A | 0.850 | 0.920 | no | mixed-16 |" in text
    assert "| first token | 2.50 ms |  |  | A | 5.00 ms | 1.00 ms | reach | mixed-16 |" in text
    assert "| not run | not measured |" in text
    assert "| end to end | distinct / base | 85 tok/s | 100 tok/s | 0.800 | 0.708-0.900 | 200 tok/s (42%) |" in text
    assert "A Processor, 2 cores; steal 1.0%, others 0.0%, idle 2.0%" in text
    assert "47 GB/s read, 800 GFLOP/s in bfloat16" in text
    assert "side B strayed by more than 5%: end to end 20%, first token 12%" in text


def test_a_claim_that_was_measured_on_two_machines_has_two_lines(saved: Path, tmp_path: Path) -> None:
    there = {"cpu": "Other(R) Processor 9", "cores": 4}
    replace(RESULT, name="mixed-16-there", machine=there).save(saved / "mixed-16-there.json")
    bars = tmp_path / "bars.json"
    bar = {
        "what": "16 mixed",
        "run": "mixed-16",
        "row": "end to end",
        "reach": 0.7,
        "stretch": 0.9,
        "command": "loradex",
    }
    bars.write_text(json.dumps([bar | {"also": ["mixed-16-there", "mixed-16-nowhere"]}]))
    table = summary(gather([saved]), read_bars(bars)).splitlines()[2:]
    assert table == [f"| 16 mixed | 0.800 | {name} | 0.700 | 0.900 | reach |" for name in ("A", "Other 9")]


def test_bars_are_met_from_their_better_side() -> None:
    row = RESULT.rows[0]
    assert [Bar("", "", "", reach, stretch, "").met(row) for reach, stretch in ((0.7, 0.75), (0.7, 0.9))] == [
        "stretch",
        "reach",
    ]
    low = Pairs("gap", "a", "b", "s", (1.05,), (1.0,), "lower")
    assert Bar("", "", "", 1.1, 1.03, "").met(low) == "reach"
    assert Bar("", "", "", 1.04, 1.03, "").met(low) == "no"


def test_numbers_are_short() -> None:
    assert (quantity(0.00123, "s"), quantity(2.5, "s"), quantity(123456.0, "tok/s")) == (
        "1.23 ms",
        "2.5 s",
        "123456 tok/s",
    )
    assert cells(Pairs("x", "a", "b", "s", (), ()))[2:] == ("-", "-", "-", "-", "-")


def test_drawings_say_which_extra_they_need(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra) as caught:
        report([saved], None, tmp_path / "out")
    assert "loradex[bench]" in caught.value.hint
    assert report([saved], None, tmp_path / "out", plots=False).files == (tmp_path / "out" / "report.md",)


def test_drawings_are_the_same_each_time(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = [report([saved], None, tmp_path / name).files for name in ("one", "two")]
    assert [path.name for path in files[0]] == ["report.md", "ratios.svg", "mixed-16.svg"]
    for one, two in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert files[0][1].read_text().startswith("<?xml")


def test_every_bar_of_the_repository_has_a_command_that_is_explained() -> None:
    bars = read_bars(ROOT / "benchmarks" / "bars.json")
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert [bar.what for bar in bars if bar.command not in page] == []
    assert len({(bar.run, bar.row) for bar in bars}) == len(bars)

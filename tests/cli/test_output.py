from __future__ import annotations

import json

import pytest

from loradex.cli.output import Output, human_count, human_size, human_time


def test_json_is_all_that_json_mode_prints(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output("json")
    out.say("talk")
    out.next("command")
    out.table(("a",), [("x",)], {"rows": [1]}, ["x"])
    said = capsys.readouterr()
    assert json.loads(said.out) == {"rows": [1]}
    assert said.err == ""


def test_quiet_prints_names_only(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output("quiet")
    out.say("talk")
    out.table(("a", "b"), [("x", "y")], {}, ["x"])
    assert capsys.readouterr() == ("x\n", "")


def test_humans_get_data_on_stdout_and_talk_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.say("talk [of] brackets")
    out.table(("name", "note"), [("x", "[bold]")], {}, [])
    said = capsys.readouterr()
    assert said.err == "talk [of] brackets\n"
    assert "NAME" in said.out
    assert "[bold]" in said.out


def test_an_empty_table_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("name",), [], {}, [], empty="nothing here")
    assert capsys.readouterr() == ("", "nothing here\n")


def test_no_bars_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().progress() as progress:
        progress("weights", 0.5)
    assert capsys.readouterr() == ("", "")


def test_what_people_read() -> None:
    assert [human_size(each) for each in (0, 1023, 1536, 3 << 30)] == ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]
    assert [human_count(each) for each in (7, 1500, 2_400_000)] == ["7", "1.5k", "2.4M"]
    assert [human_time(each) for each in (0.0012, 0.12, 2.5)] == ["1.20 ms", "120 ms", "2.5 s"]

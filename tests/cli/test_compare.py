"""`loradex compare` on a running server, on one of its own, and what it writes."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from loradex.cli.compare_table import Case, scores
from loradex.cli.compare_view import Board
from loradex.cli.prompts_file import PromptLine, read_prompts
from loradex.client.client import Client
from loradex.client.comparison import Comparison, Scored, Side, Token
from loradex.errors import InvalidRequest
from tests.cli.conftest import Loradex
from tests.server.serving import Deck, save_adapter

SIDES = ("-a", "medical", "-a", "base", "-a", "nobody")


@pytest.fixture
def asked(loradex: Loradex, deck: Deck) -> Loradex:
    assert loradex("adapter", "add", "medical", deck.folder / "medical").code == 0
    return loradex


def test_sides_stand_side_by_side_with_what_differs(asked: Loradex) -> None:
    ran = asked("compare", "What is a fever?", *SIDES, "--reference", "rest")
    assert ran.code == 0, ran.err
    for text in ("medical → medical@1", "What is a fever?", "tokens/s", "does not exist", "base against medical"):
        assert text in ran.out
    assert "agreement of all answers 0." in ran.out
    told = asked("compare", "What is a fever?", *SIDES, "--reference", "rest", "--json").json
    assert [side["side"] for side in told["sides"]] == ["medical", "base", "nobody"]
    assert told["reference"] == "rest"
    assert told["sides"][0]["reference"]["perplexity"] > 1
    assert told["sides"][2]["error"]["code"] == "model_not_found"
    assert all("logprob" in token for token in told["sides"][0]["tokens"])
    assert asked("compare", "Hello", *SIDES, "-q").out.splitlines()[0].endswith("Hello")


def test_columns_grow_while_the_sides_answer(asked: Loradex, deck: Deck) -> None:
    board = Board(["medical", "base"], 100)
    seen = []
    with Client(deck.url) as client:
        for event in client.compare_events("hello", ["medical", "base"]):
            board.take(event)
            console = Console(width=100)
            with console.capture() as captured:
                console.print(board.shown())
            seen.append(captured.get())
    assert "▌" in seen[0]
    assert "▌" not in seen[-1]
    assert seen[-1].count("hello") == 2
    assert "medical → medical@1" in seen[-1].splitlines()[0]
    assert "base" in seen[-1].splitlines()[0]


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.outside += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_reports_are_json_markdown_or_one_page(asked: Loradex, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> | *a*"
    for name in ("a.json", "a.md", "a.html"):
        assert asked("compare", hostile, *SIDES, "--output", name).code == 0
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["prompt"] == hostile
    assert len(told["sides"]) == 3
    markdown = (tmp_path / "a.md").read_text()
    assert "**medical** (medical@1)" in markdown
    assert "| side | tokens |" in markdown
    text = (tmp_path / "a.html").read_text()
    page = _Page(text)
    assert page.open == []
    assert page.outside == []
    assert "script" not in page.seen
    assert page.seen.count("article") == 3
    assert {"style", "table", "ins", "del"} <= set(page.seen)
    refused = asked("compare", "Hello", *SIDES, "--output", "a.pdf", "--json")
    assert refused.code == 2
    assert ".html" in refused.error["hint"]


def test_a_file_gives_a_table_and_a_bad_line_costs_itself_alone(asked: Loradex, tmp_path: Path) -> None:
    lines = [
        json.dumps({"prompt": "one", "reference": "rest"}),
        "{broken",
        json.dumps({"messages": [{"role": "user", "content": "two"}], "reference": "base"}),
        json.dumps({"nothing": 1}),
        json.dumps({"prompt": "x" * 600}),
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    ran = asked("compare", "--file", "prompts.jsonl", *SIDES, "--output", "table.html")
    assert ran.code == 0, ran.err
    assert "PERPLEXITY" in ran.out
    assert "line 2 is no JSON" in ran.out
    assert "line 4 has no `prompt`" in ran.out
    told = asked("compare", "--file", "prompts.jsonl", *SIDES, "--json").json
    medical, base, nobody = told["table"]
    assert (medical["answered"], medical["failed"]) == (2, 1)  # the long prompt does not fit the context
    assert (nobody["answered"], nobody["failed"], nobody["perplexity"]) == (0, 3, None)
    assert base["perplexity"] < medical["perplexity"]
    assert base["best"] >= 1
    assert medical["agreement"] is None
    assert 0 < base["agreement"] < 1
    assert len(told["prompts"]) == 5
    assert _Page((tmp_path / "table.html").read_text()).seen.count("details") == 3


def test_when_nobody_answers_it_fails(asked: Loradex) -> None:
    assert asked("compare", "Hello", "-a", "nobody").code == 1
    assert asked("compare", "-a", "base").code == 2
    assert asked("compare", "Hello", "--file", "x", "-a", "base").code == 2


def test_without_a_server_one_runs_in_this_process(
    loradex: Loradex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORADEX_ENGINE_NAME", "fake")
    save_adapter(tmp_path / "medical")
    (tmp_path / "base").mkdir()
    where = ("--model", tmp_path / "base", "--adapter", f"medical={tmp_path / 'medical'}", "--home", tmp_path / "home")
    ran = loradex("compare", "Hello", "-a", "medical", "-a", "base", *where, "--json")
    assert ran.code == 0, ran.err
    assert [side["adapter"] for side in ran.json["sides"]] == ["medical@1", "base"]


def test_the_score_is_over_all_tokens_of_all_references() -> None:
    def side(name: str, *logprobs: float) -> Side:
        tokens = tuple(Token("x", each) for each in logprobs)
        return Side(name, reference=Scored(tokens, sum(logprobs) / len(logprobs), None))

    cases = [
        Case(PromptLine("a"), Comparison((side("one", -1.0), side("two", -1.0)))),
        Case(PromptLine("b"), Comparison((side("one", -2.0, -3.0), side("two", -1.0, -1.0)))),
    ]
    one, two = scores(cases, ["one", "two"])
    assert one.perplexity == pytest.approx(2.718281828**2)
    assert two.perplexity == pytest.approx(2.718281828)
    assert (one.best, two.best) == (1, 2)


def test_a_file_without_any_prompt_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("[]\n")
    with pytest.raises(InvalidRequest, match="no JSON object"):
        read_prompts(path)

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Loradex
from tests.routing.conftest import BENCHMARKS
from tests.server.serving import save_adapter, served

EXAMPLES = BENCHMARKS / "routing_examples.jsonl"
WORDS = "routes: {medical: {words: [symptom, drug]}, legal: {words: [contract, law]}}"


@pytest.fixture
def router(tmp_path: Path) -> Path:
    path = tmp_path / "router.yaml"
    path.write_text(WORDS)
    return path


def test_a_prompt_gets_an_adapter_and_a_reason(loradex: Loradex, router: Path) -> None:
    said = loradex("route", "What are the symptoms?", "--router", router)
    assert said.code == 0
    assert "medical" in said.out
    assert "`symptom`" in said.out
    found = loradex("route", "ask", "Is it law?", "--router", router, "--json").json
    assert (found["adapter"], found["score"]) == ("legal", 1.0)
    assert loradex("route", "Hello", "--router", router, "-q").out == "base\n"


def test_evaluation_prints_its_numbers(loradex: Loradex, router: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "a drug", "label": "medical"}\n{"text": "a contract", "label": "base"}\n')
    found = loradex("route", "evaluate", prompts, "--router", router, "--json").json
    assert (found["policy"], found["accuracy"], found["routed_precision"], found["coverage"]) == ("words", 0.5, 0.5, 1)
    assert found["confusion"]["base"] == {"legal": 1, "medical": 0, "base": 0}
    said = loradex("route", "evaluate", prompts, "--router", router).out
    assert all(word in said for word in ("accuracy", "routed_precision", "coverage", "latency", "0.500"))


def test_examples_train_the_router_of_one_run(loradex: Loradex) -> None:
    argv = ("route", "evaluate", BENCHMARKS / "routing_prompts.jsonl", "--examples", EXAMPLES)
    found = loradex(*argv, "--policy", "classifier", "--threshold", "0.4", "--json").json
    assert (found["policy"], found["prompts"]) == ("classifier", 120)
    assert 0.4 < found["accuracy"] < found["routed_precision"] < 1


def test_without_a_file_the_server_is_asked(loradex: Loradex, router: Path, tmp_path: Path) -> None:
    assert loradex("route", "Hello").code == 4
    with served(tmp_path, router=router) as deck:
        save_adapter(deck.folder / "medical")
        assert loradex("adapter", "add", "medical", deck.folder / "medical", "--url", deck.url).code == 0
        assert loradex("route", "What drug?", "--url", deck.url, "--json").json["adapter"] == "medical"


def test_without_anything_to_route_by_it_says_what_to_give(loradex: Loradex, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "a drug", "label": "medical"}\n')
    said = loradex("route", "evaluate", prompts)
    assert said.code == 2
    assert "--router FILE" in said.err


def test_the_router_of_a_running_server_can_be_measured(loradex: Loradex, router: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "a drug", "label": "medical"}\n{"text": "a contract", "label": "legal"}\n')
    with served(tmp_path, router=router) as deck:
        save_adapter(deck.folder / "medical")
        assert loradex("adapter", "add", "medical", deck.folder / "medical", "--url", deck.url).code == 0
        found = loradex("route", "evaluate", prompts, "--url", deck.url, "--json").json
    # The server has no adapter `legal`, which its file alone would not have told.
    assert (found["policy"], found["accuracy"], found["coverage"]) == ("words", 0.5, 0.5)

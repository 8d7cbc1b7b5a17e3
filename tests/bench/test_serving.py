"""Loads that are measured once: a dataset in this process, and any server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loradex.bench.dataset import read_dataset
from loradex.bench.pairs import percentile
from loradex.bench.popularity import assign
from loradex.bench.serving import serve_load
from loradex.bench.workload import Request
from loradex.errors import ConfigInvalid, FilesNotFound
from tests.cli.conftest import Loradex, base, deck, loradex
from tests.server.serving import Deck, save_adapter

__all__ = ["base", "deck", "loradex"]

ROWS = [
    {"task_id": 0, "input_ids": [11, 12, 13], "output_tokens": 3},
    {"task_id": 1, "prompt": "hello", "output_tokens": 2, "lora_request": {"lora_name": "a", "lora_int_id": 0}},
]


def written(folder: Path, rows: list[Any]) -> Path:
    file = folder / "requests.jsonl"
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return file


def test_a_dataset_is_read_as_tensorrt_llm_writes_it(tmp_path: Path) -> None:
    rows = [*ROWS, "", {**ROWS[0], "lora_request": {"lora_name": "a", "lora_int_id": 7, "lora_path": "loras/0"}}]
    found = read_dataset(written(tmp_path, rows))
    assert [each.prompt for each in found.requests] == [(11, 12, 13), "hello", (11, 12, 13)]
    assert [each.output for each in found.requests] == [3, 2, 3]
    assert [each.adapter for each in found.requests] == [None, 0, 1]
    assert [(each.name, each.path) for each in found.adapters] == [("a", ""), ("a", "loras/0")]
    assert len(read_dataset(written(tmp_path, rows), limit=2).requests) == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "line 2 is no JSON"),
        ("5", "line 2 is no object"),
        ({"output_tokens": 3}, "line 2 has neither `prompt`"),
        ({"prompt": "a", "output_tokens": 0}, "line 2: `output_tokens` is 0"),
        ({"prompt": "a", "input_ids": [-1], "output_tokens": 1}, "line 2 has neither"),
        ({"prompt": "a", "output_tokens": 1, "lora_request": {"lora_name": ""}}, "line 2: `lora_request`"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_number(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        read_dataset(written(tmp_path, [ROWS[0], row]))


def test_no_dataset_is_said(tmp_path: Path) -> None:
    with pytest.raises(FilesNotFound):
        read_dataset(tmp_path / "none.jsonl")
    with pytest.raises(ConfigInvalid, match="is empty"):
        read_dataset(written(tmp_path, []))


def test_adapters_are_assigned_as_vllm_does() -> None:
    assert assign("round-robin", 5, 2) == [0, 1, 0, 1, 0]
    drawn = assign("random", 400, 4, seed=1)
    assert all(80 < list(drawn).count(adapter) < 120 for adapter in range(4))


class Steady:
    """Answers each request with so many tokens, one at a time."""

    async def stream(self, request: Request) -> AsyncIterator[int]:
        for _ in range(request.output):
            yield 1


async def test_what_is_measured_follows_from_the_times_of_the_tokens() -> None:
    requests = [Request(index, index % 2 or None, (10,) * 4, 5) for index in range(6)]
    told: list[float] = []
    found = await serve_load(Steady(), requests, ["x", "y"], lambda _, share: told.append(share), concurrency=2)
    values = found.describe()
    assert (values["completed"], values["total_input_tokens"], values["total_output_tokens"]) == (6, 24, 30)
    assert values["adapters"] == {"base": 3, "y": 3}
    assert told[-1] == 1.0
    ttfts = [each.ttft * 1e3 for each in found.played.answers]
    assert values["p99_ttft_ms"] == pytest.approx(percentile(ttfts, 99))
    for answer, tpot in zip(found.played.answers, found.latencies["tpot"], strict=True):
        assert tpot == pytest.approx(sum(answer.gaps) / 4)
    assert sum(found.latencies["e2el"]) == pytest.approx(sum(ttfts) / 1e3 + sum(found.latencies["itl"]))


def test_bench_serve_asks_a_server_for_adapters_in_turn(loradex: Loradex, deck: Deck, tmp_path: Path) -> None:
    for name in ("medical", "medical2"):
        assert loradex("adapter", "add", name, deck.folder / name).code == 0
    options = ("--num-prompts", 4, "--random-input-len", 8, "--random-output-len", 3, "--max_concurrency", 2)
    modules = ("--lora-modules", "medical", "medical2", "--lora-assignment", "round-robin")
    ran = loradex("bench", "serve", *modules, *options, "--request-rate", 1000, "--json", "--out", tmp_path / "r.json")
    assert ran.code == 0, ran.err
    assert (ran.json["completed"], ran.json["total_output_tokens"]) == (4, 12)
    assert ran.json["adapters"] == {"medical": 2, "medical2": 2}
    assert {
        f"{share}_{name}_ms" for share in ("mean", "median", "p99") for name in ("ttft", "tpot", "itl", "e2el")
    } <= {*ran.json}
    assert json.loads((tmp_path / "r.json").read_text()) == ran.json
    wrong = loradex("bench", "serve", "--lora-modules", "medicl", "--json")
    assert (wrong.code, wrong.error["hint"]) == (2, "Did you mean `medical`?")
    assert loradex("bench", "serve", "--request-rate", "0", "--json").code == 2
    rows = written(tmp_path, [{**ROWS[0], "lora_request": {"lora_name": "medical", "lora_path": "anywhere"}}])
    assert loradex("bench", "serve", "--dataset", rows, "--json").json["adapters"] == {"medical": 1}


def test_bench_throughput_answers_a_dataset_as_trtllm_bench_does(loradex: Loradex, base: Path, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "loras" / "0", rank=4)
    lora = {"lora_name": "lora_0", "lora_int_id": 0, "lora_path": str(folder)}
    rows = written(tmp_path, [ROWS[0], {**ROWS[0], "lora_request": lora}, {**ROWS[0], "lora_request": lora}])
    (tmp_path / "options.yaml").write_text(
        f"lora_config:\n  lora_dir: [{folder}]\n  max_lora_rank: 4\n  lora_target_modules: [attn_q]\n"
    )
    options = ("--extra_llm_api_options", "options.yaml", "--engine", "fake", "--model", base, "--json")
    ran = loradex("bench", "throughput", "--dataset", rows, "--num_requests", 2, "--concurrency", 2, *options)
    assert ran.code == 0, ran.err
    assert (ran.json["completed"], ran.json["adapters"]) == (2, {"base": 1, "lora_0@1": 1})
    both = loradex("bench", "throughput", "--dataset", rows, "--url", "http://127.0.0.1:9", "--json")
    assert (both.code, "bench serve" in both.error["hint"]) == (2, True)

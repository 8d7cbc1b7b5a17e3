"""The page of TensorRT-Edge-LLM's users, from quantize to the switch report, as a reader types it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

import loradex as package
from loradex.engine.config import EngineConfig
from loradex.server.run import Server
from loradex.service.wiring import make_service
from loradex.settings import ServerConfig, Settings
from tests.cli.conftest import Loradex, loradex

__all__ = ["loradex"]

ROOT = Path(__file__).parents[2]
DEMO = Path(package.__file__).parent / "assets" / "demo"
PAGE = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8")


def commands(script: str) -> list[str]:
    return [line for line in script.replace("\\\n", " ").splitlines() if line.strip()]


def run(line: str, loradex: Loradex) -> None:
    """Run a command of ours in this process, which has torch already, and any other in a shell."""
    if line.startswith("loradex "):
        ran = loradex(*shlex.split(line)[1:])
        assert ran.code == 0, (line, ran.err)
        return
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], env=os.environ | {"PATH": path}, check=False)
    assert done.returncode == 0, line


@pytest.fixture
def place(loradex: Loradex, tmp_path: Path) -> Path:
    os.symlink(DEMO / "base", tmp_path / "base")
    named = re.findall(r"`(\w+\.json)`,[^`]*?```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in named] == ["medical_input.json", "combined_input.json"]
    for name, text in named:
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_page_from_quantize_to_the_switch_report(place: Path, loradex: Loradex) -> None:
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, "docs/edge.md", "exec"), {"__name__": "page"})
        else:
            for line in commands(block):
                run(line, loradex)
    medical, base = (json.loads((place / f"{name}_output.json").read_text()) for name in ("medical", "base"))
    assert medical["input_file"] == "medical_input.json"
    [answer] = medical["responses"]
    assert answer["adapter"] == "medical@1"
    assert answer["formatted_system_prompt"].startswith("<|im_start|>system\nYou are a medical")
    assert base["responses"][0]["adapter"] == "base"
    combined = json.loads((place / "combined_output.json").read_text())["responses"]
    assert [each["adapter"] for each in combined] == ["medical@1", "legal@1", "technical@1", "base"]
    assert [(each["request_idx"], each["batch_idx"]) for each in combined] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    profile = json.loads((place / "profile.json").read_text())
    assert profile["requests"]["failed"] == 0
    assert profile["adapters"]["switches"] == 3
    assert profile["steps"]["total"] > 0
    serves(place / "engine", medical["responses"][0])


def serves(folder: Path, answered: dict[str, object]) -> None:
    """`loradex serve ./engine` as the command puts it together: its limits hold, and it answers a prompt."""
    settings = Settings(home=folder.parent / "home", engine=EngineConfig(str(folder), kv_cache_memory=1 << 24))
    with Server(make_service(settings), ServerConfig(port=0)).background() as url, httpx.Client(base_url=url) as client:
        [card] = client.get("/v1/models").json()["data"]
        assert (card["id"], card["max_model_len"]) == ("engine", 1024)
        assert client.get("/api/info").json()["limits"]["max_lora_rank"] == 64
        body = {"prompt": answered["formatted_complete_request"], "temperature": 0, "max_tokens": 8}
        choices = [client.post("/v1/completions", json=body).json()["choices"][0]["text"] for _ in range(2)]
        assert choices[0] == choices[1] != ""


def test_the_script_of_the_page_makes_nothing_that_fits_a_model(place: Path, loradex: Loradex) -> None:
    """`prepare_mock_adapters.py`, with the sizes of the demo: its layers and names stay as they are."""
    tensors = {}
    for layer in range(5):
        for proj in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            outputs = 192 * 4 if proj in ("gate_proj", "up_proj") else 192
            at_proj = "proj" in proj[:1]
            prefix = f"model.layers.{layer}.self_attn.{proj}" if at_proj else f"model.layers.{layer}.mlp.{proj}"
            tensors[f"{prefix}.lora_A.weight"] = np.full((192, 16), 0.01, np.float16)
            tensors[f"{prefix}.lora_B.weight"] = np.full((16, outputs), 0.01, np.float16)
    (place / "adapters" / "medical").mkdir(parents=True)
    save_file(tensors, place / "adapters" / "medical" / "adapter.safetensors")
    ran = loradex("adapter", "check", "adapters/medical/adapter.safetensors", "--base", "base", "--json")
    assert ran.code == 1
    assert ran.json["format"] == "edge"
    assert {each["code"] for each in ran.json["problems"]} >= {"unknown_modules", "shape_mismatch"}
    assert "mlp.q_proj" in ran.out

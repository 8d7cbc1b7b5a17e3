"""Commands run in this process as `loradex` would run them, with their output and exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from safetensors.numpy import save_file

from loradex.cli.app import run
from tests.server.serving import Deck, save_adapter, served


@dataclass
class Ran:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


Loradex = Callable[..., Ran]


@pytest.fixture
def loradex(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loradex]:
    monkeypatch.chdir(tmp_path)
    # Another program may hold the usual port of this machine; the address of nobody is as good as none.
    monkeypatch.setattr("loradex.client.wire.DEFAULT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("loradex.cli.target._USUAL", ("127.0.0.1", 9))

    def call(*argv: object) -> Ran:
        capfd.readouterr()
        code = run([str(each) for each in argv])
        said = capfd.readouterr()
        return Ran(code, said.out, said.err)

    yield call
    # A server that ran in this process logs to the standard error of this test, which ends with it.
    structlog.reset_defaults()


@pytest.fixture
def deck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deck]:
    """A running server that the commands talk to."""
    with served(tmp_path) as deck:
        save_adapter(deck.folder / "medical")
        save_adapter(deck.folder / "medical2", seed=1)
        save_adapter(deck.folder / "broken", seed=2, broken=True)
        monkeypatch.setenv("LORADEX_URL", deck.url)
        yield deck


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of a base model that the adapters of the tests fit."""
    folder = tmp_path / "base"
    folder.mkdir()
    shapes = {"q_proj": (32, 32), "v_proj": (16, 32)}
    save_file(
        {
            f"model.layers.{layer}.self_attn.{name}.weight": np.zeros(shape, np.float32)
            for layer in range(2)
            for name, shape in shapes.items()
        },
        folder / "model.safetensors",
    )
    heads = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 100, **heads}
    (folder / "config.json").write_text(json.dumps(config))
    return folder

from __future__ import annotations

import pytest

from loradex.cli.argv import rewritten


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("serve m --lora-modules a=1 b=2 --port 1", "serve m --lora-modules a=1 --lora-modules b=2 --port 1"),
        ("serve --lora-modules a=1 model", "serve --lora-modules a=1 model"),
        ("serve --lora-modules", "serve --lora-modules"),
        ("serve --lora-modules --port 1", "serve --lora-modules --port 1"),
        ("serve --lora-modules=a=1", "serve --lora-modules=a=1"),
        ("serve --max_loras 4 --max_lora_rank=8", "serve --max-loras 4 --max-lora-rank=8"),
        ("build --onnxDir x_Y --maxKVCacheCapacity=2", "build --onnx-dir x_Y --max-kv-cache-capacity=2"),
        ("infer --loraWeights a:b/C --dumpProfile", "infer --lora-weights a:b/C --dump-profile"),
        ("serve --served-model-name=a_b", "serve --served-model-name=a_b"),
        ("--json adapter ls", "adapter ls --json"),
        ("-q ps", "ps -q"),
        ("run m -- --max_loras", "run m -- --max_loras"),
        ("route hello", "route ask hello"),
        ("--json route --router f hello", "route ask --router f hello --json"),
        ("route evaluate f", "route evaluate f"),
        ("route -- evaluate", "route ask -- evaluate"),
        ("route", "route"),
        ("--json", "--json"),
        ("", ""),
    ],
)
def test_spellings(given: str, parsed: str) -> None:
    assert rewritten(given.split()) == parsed.split()


def test_modules_as_json() -> None:
    argv = ["--lora-modules", '{"name": "a", "path": "x"}', "b=y"]
    assert rewritten(argv) == ["--lora-modules", '{"name": "a", "path": "x"}', "--lora-modules", "b=y"]

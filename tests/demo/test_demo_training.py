"""The whole training code runs end to end, with a few steps in each stage."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.mark.slow
def test_quick_training_writes_every_artifact(tmp_path: Path) -> None:
    from demo.train import main

    assert main(["--quick", "--out", str(tmp_path)]) == 0
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    wanted = {"README.md", "SHA256SUMS", "evaluation.json", "questions.json", "base/model.safetensors"}
    wanted |= {f"adapters/{name}/adapter_model.safetensors" for name in ("medical", "medical-v2", "legal")}
    assert wanted <= found


@pytest.mark.slow
def test_quick_training_is_repeatable(tmp_path: Path) -> None:
    from demo.base import train_base
    from demo.chance import fixed
    from demo.corpus import sentences
    from demo.settings import QUICK, Settings
    from demo.tokenizer import train_tokenizer

    settings = Settings(schedule=QUICK)
    fixed(settings.seed)
    for name in ("first", "second"):
        tokenizer = train_tokenizer(sentences(), settings.shape.vocabulary, settings.shape.positions)
        train_base(tokenizer, tmp_path / name, settings, lambda step, steps, loss: None)
    for file in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()

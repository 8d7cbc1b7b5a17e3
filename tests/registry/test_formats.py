"""Adapters of other formats become PEFT's at the door of the registry, and leave nothing else behind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from loradex.adapters.formats.edge import write_edge
from loradex.adapters.formats.gguf import write_gguf
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.peft import read_peft
from loradex.adapters.formats.tensor import Tensor
from loradex.errors import AdapterInvalid, PathNotAllowed
from loradex.registry import staging
from loradex.registry.registry import Registry
from tests.adapters.formats.test_gguf import UP, make_base
from tests.registry.conftest import files

pytest.importorskip("gguf")

BASE = make_base()
EDGE = "processed_adapter_model.safetensors"


def make_lora() -> Lora:
    random = np.random.default_rng(0)
    a, b = (Tensor("F16", random.normal(size=shape).astype(np.float16)) for shape in ((4, 32), (48, 4)))
    return Lora({UP: Pair(a, b, 4.0)}, "b")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    write_gguf(make_lora(), tmp_path / "medical.gguf", BASE)
    return tmp_path / "medical.gguf"


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    folder = tmp_path / "edge"
    folder.mkdir()
    write_edge(make_lora(), folder)
    return folder


def test_what_is_stored_is_peft_with_one_digest_for_equal_content(
    registry: Registry, home: Path, gguf: Path, edge: Path
) -> None:
    first = registry.commit("medical", registry.stage(gguf, BASE, max_rank=16))
    again = registry.commit("medical", registry.stage(edge, BASE, max_rank=16))
    assert (first.version, again.version) == (1, 1)
    stored = registry.adapter(first.digest, verify=True)
    assert {path.name for path in stored.path.iterdir()} <= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "stamp.json",
    }
    [pair], [wanted] = read_peft(stored.path).pairs.values(), make_lora().pairs.values()
    assert np.array_equal(pair.b.values, wanted.b.values)
    assert registry.get("medical").versions[0].source == str(gguf)
    origin = hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert [entry.note for entry in registry.history("medical")] == [f"converted from gguf with SHA-256 {origin}"]


def test_a_check_reports_and_leaves_nothing(registry: Registry, home: Path, gguf: Path) -> None:
    report = registry.check(gguf, BASE, max_rank=16)
    assert (report.ok, report.rank, report.modules, report.format) == (True, 4, ("up_proj",), "gguf")
    gguf.write_bytes(gguf.read_bytes()[:100])
    report = registry.check(gguf, BASE, max_rank=16)
    assert [problem.code for problem in report.problems] == ["bad_header"]
    assert "medical.gguf" in report.problems[0].what
    assert files(home) == {}


def test_what_cannot_be_read_is_refused_and_leaves_nothing(registry: Registry, home: Path, gguf: Path) -> None:
    gguf.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(AdapterInvalid, match=r"`medical\.gguf` cannot be served"):
        registry.stage(gguf, BASE, max_rank=16)
    good = gguf.with_name("good.gguf")
    write_gguf(make_lora(), good, BASE)
    with pytest.raises(AdapterInvalid, match="LoRA rank 4 is greater than max_lora_rank 2"):
        registry.stage(good, BASE, max_rank=2)
    assert files(home) == {}


def test_no_part_may_lie_outside(registry: Registry, tmp_path: Path, edge: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / EDGE).symlink_to(edge / EDGE)
    (inside / "a.gguf").symlink_to(edge / EDGE)
    for path in (inside, inside / EDGE, inside / "a.gguf", edge):
        with pytest.raises(PathNotAllowed):
            registry.stage(path, BASE, max_rank=16, allowed=[inside])


def test_a_large_file_is_refused_while_it_is_copied(
    registry: Registry, home: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MAX_WEIGHTS_BYTES", 1000)
    report = registry.check(gguf, BASE, max_rank=16)
    assert [problem.code for problem in report.problems] == ["too_large"]
    assert files(home) == {}

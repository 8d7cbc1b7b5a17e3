"""Readers against files from anywhere: they read them or refuse them, with little memory, and touch nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradex.adapters.config import parse_config
from loradex.adapters.formats.convert import read_foreign
from loradex.adapters.formats.detect import EDGE_CONFIG, EDGE_WEIGHTS, Format
from loradex.adapters.formats.edge import write_edge
from loradex.adapters.formats.gguf import write_gguf
from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.nemo_writer import write_nemo
from loradex.adapters.formats.peft import write_peft
from loradex.adapters.formats.safetensors_file import read_safetensors
from loradex.adapters.formats.torch_file import TorchFile, write_torch_file
from loradex.adapters.formats.torch_pickle import BadPickle, load_pickle
from loradex.adapters.formats.yaml_file import read_yaml
from loradex.adapters.header import read_header
from loradex.adapters.tokenizer import read_vocabulary
from loradex.errors import AdapterInvalid, Problem
from tests.adapters.formats import test_nemo as nemo
from tests.adapters.formats.mutating import mutations
from tests.adapters.formats.test_gguf import make_base, make_lora

BASE = make_base()
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "20000"))
"""Damaged files of each kind in the long run, from a seed that a failure shows and `FUZZ_SEED` gives again."""
SEED = int(os.environ.get("FUZZ_SEED", random.randrange(1 << 30)))
PEAK = 8 << 20
"""Bytes that a reader may take for a file of some 20 KB, whatever the file says."""

Read = Callable[[Path], object]


def _foreign(form: Format, name: str) -> Read:
    return lambda path: read_foreign(form, {name: path}, BASE)


def _edge_config(path: Path) -> object:
    return read_foreign("edge", {EDGE_WEIGHTS: path.with_name(EDGE_WEIGHTS), EDGE_CONFIG: path}, BASE)


def _pickle(path: Path) -> object:
    try:
        return load_pickle(path.read_bytes())
    except BadPickle as error:
        return str(error)


READERS: dict[str, tuple[str, Read]] = {
    "safetensors": ("adapter_model.safetensors", read_header),
    "tokenizer": ("tokenizer.json", lambda path: read_vocabulary({"tokenizer.json": path})),
    "config": ("adapter_config.json", lambda path: parse_config(path.read_bytes())),
    "gguf": ("adapter.gguf", _foreign("gguf", "adapter.gguf")),
    "edge": (EDGE_WEIGHTS, _foreign("edge", EDGE_WEIGHTS)),
    "edge config": (EDGE_CONFIG, _edge_config),
    "pickle": ("adapter_model.bin", lambda path: TorchFile(Mapped.whole(path)).tensors()),
    "pickle inside": ("data.pkl", _pickle),
    "tar": ("adapter.nemo", _foreign("nemo", "adapter.nemo")),
    "yaml": ("model_config.yaml", lambda path: read_yaml(Mapped.whole(path))),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One adapter in every format."""
    folder = tmp_path_factory.mktemp("good")
    write_peft(make_lora(), folder)
    write_edge(make_lora(), folder)
    write_gguf(make_lora(), folder / "adapter.gguf", BASE)
    write_nemo(nemo.make_lora(), folder / "adapter.nemo", nemo.make_base())
    write_torch_file(folder / "adapter_model.bin", read_safetensors(folder / "adapter_model.safetensors"))
    with zipfile.ZipFile(folder / "adapter_model.bin") as archive:
        (folder / "data.pkl").write_bytes(archive.read("model_weights/data.pkl"))
    tokens = [{"id": 256, "content": "<tool>", "special": True}, {"id": 257, "content": "<end>", "lstrip": False}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": tokens}))
    (folder / "model_config.yaml").write_text(yaml.safe_dump(nemo.CONFIG))
    return folder


def attack(read: Read, path: Path, content: bytes) -> None:
    """Let a reader read `content`; only refusals of our tree may come out, and nothing may lie beside it after."""
    path.write_bytes(content)
    before = sorted(os.listdir(path.parent))
    problems: tuple[Problem, ...] = ()
    tracemalloc.reset_peak()
    try:
        read(path)
    except AdapterInvalid as error:
        problems = error.problems or (Problem("", "", ""),)
    assert all(problem.fix and problem.what.isprintable() for problem in problems)
    assert tracemalloc.get_traced_memory()[1] < PEAK
    assert sorted(os.listdir(path.parent)) == before


def mutate(kind: str, good: Path, tmp_path: Path, seed: int, count: int) -> None:
    name, read = READERS[kind]
    print(f"FUZZ_SEED={seed}")
    if not (tmp_path / name).exists():
        shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    tracemalloc.start()
    try:
        for content in mutations((good / name).read_bytes(), seed, count):
            attack(read, tmp_path / name, content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_read_or_refused(kind: str, good: Path, tmp_path: Path) -> None:
    mutate(kind, good, tmp_path, seed=1, count=120)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_many_damaged_files_are_read_or_refused(kind: str, good: Path, tmp_path: Path) -> None:
    mutate(kind, good, tmp_path, seed=SEED, count=ROUNDS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), magic=st.sampled_from([b"", b"GGUF\3\0\0\0", b"{\0\0\0\0\0\0\0", b"PK\3\4"]))
@pytest.mark.parametrize("kind", READERS)
def test_any_bytes_are_read_or_refused(kind: str, good: Path, tmp_path: Path, content: bytes, magic: bytes) -> None:
    name, read = READERS[kind]
    if not (tmp_path / name).exists():
        shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    tracemalloc.start()
    try:
        attack(read, tmp_path / name, magic + content)
    finally:
        tracemalloc.stop()

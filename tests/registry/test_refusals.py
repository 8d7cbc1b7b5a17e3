"""Bad input: each is refused by name, and nothing of it stays behind."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradex.core.model import ModelInfo
from loradex.errors import (
    AdapterDamaged,
    AdapterInvalid,
    Conflict,
    FilesNotFound,
    LoradexError,
    PathNotAllowed,
    RegistryFailed,
)
from loradex.registry import registry as module
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter, make_base, make_tensors, safetensors
from tests.registry.conftest import Add, files

BROKEN = make_tensors() | {next(iter(make_tensors())): np.full((4, 16), np.nan, np.float32)}
RENAMED = {name.replace("model.layers", "transformer.h"): tensor for name, tensor in make_tensors().items()}
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another base": (make_tensors(base=make_base(hidden=24)), {}, "belongs to another base"),
    "more layers": (make_tensors(base=make_base(layers=4)), {}, "adapted modules are not in the base model"),
    "rank": (make_tensors(64), {"r": 64}, r"LoRA rank 64 is greater than max_lora_rank 16\."),
    "no module": (RENAMED, {}, "None of its 4 modules is in the base model"),
    "no tensor": ({}, {}, "no low-rank pair"),
    "nan": (BROKEN, {}, "64 weights are NaN or infinite"),
    "truncated": (safetensors(make_tensors())[:-7], {}, "is truncated"),
    "truncated header": (safetensors(make_tensors())[:90], {}, "is truncated"),
    "empty": (b"", {}, "is empty"),
    "zip": (b"PK\x03\x04" + bytes(99), {}, "a zip archive"),
    "pickle": (b"\x80\x02}q\x00." + bytes(99), {}, "a Python pickle"),
    "web page": (b"<!DOCTYPE html>" + bytes(99), {}, "an HTML"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", {}, "git-lfs"),
    "noise": (bytes(range(255, 0, -1)), {}, "not safetensors"),
    "dora": (None, {"use_dora": True}, "`use_dora` is set, but its tensors are missing"),
    "modules_to_save": (None, {"modules_to_save": ["lm_head"]}, "`modules_to_save` names `lm_head`"),
    "unknown option": (None, {"use_magic": True}, "`use_magic`"),
    "other method": (None, {"peft_type": "IA3"}, "only LORA"),
    "fp8": ({name: t.astype(np.uint8) for name, t in make_tensors().items()}, {}, "dtype F8_E4M3"),
    "wrong rank": (None, {"r": 8}, "Rank is 4 where adapter_config.json says 8"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_adapter_is_refused_and_leaves_nothing(
    registry: Registry, add: Add, home: Path, tmp_path: Path, wrong: str
) -> None:
    tensors, changes, what = WRONG[wrong]
    add("medical")
    before = registry.list(), files(home), sorted(os.listdir(home / "blobs"))
    folder = make_adapter(tmp_path / "wrong", tensors, **changes)
    with pytest.raises(AdapterInvalid, match=what) as error:
        registry.stage(folder, BASE, max_rank=16)
    assert "Adapter `wrong` cannot be served" in error.value.message
    assert all(problem.fix for problem in error.value.problems)
    assert error.value.problems == registry.check(folder, BASE, max_rank=16).problems
    assert (registry.list(), files(home), sorted(os.listdir(home / "blobs"))) == before


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors", None])
def test_missing_files_are_named(registry: Registry, home: Path, tmp_path: Path, missing: str | None) -> None:
    folder = make_adapter(tmp_path / "a")
    if missing:
        (folder / missing).unlink()
    else:
        shutil.rmtree(folder)
    for verb in (registry.stage, registry.check):
        with pytest.raises(FilesNotFound, match=missing or "does not exist"):
            verb(folder, BASE, max_rank=16)
    assert files(home) == {}


def test_another_base_by_name_is_refused_when_asked(registry: Registry, home: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", base_model_name_or_path="org/other")
    with pytest.raises(AdapterInvalid, match="trained on `org/other`"):
        registry.stage(folder, BASE, max_rank=16, strict_base=True)
    assert files(home) == {}
    assert registry.stage(folder, BASE, max_rank=16).report.warnings


def outside(tmp_path: Path, inside: Path) -> Path:
    return make_adapter(tmp_path / "outside")


def by_dots(tmp_path: Path, inside: Path) -> Path:
    make_adapter(tmp_path / "outside")
    return inside / ".." / "outside"


def by_folder_link(tmp_path: Path, inside: Path) -> Path:
    (inside / "link").symlink_to(make_adapter(tmp_path / "outside"), target_is_directory=True)
    return inside / "link"


def by_sub_folder_link(tmp_path: Path, inside: Path) -> Path:
    by_folder_link(tmp_path, inside)
    return inside


def by_weights_link(tmp_path: Path, inside: Path) -> Path:
    return _linked(tmp_path, inside, "adapter_model.safetensors")


def by_config_link(tmp_path: Path, inside: Path) -> Path:
    return _linked(tmp_path, inside, "adapter_config.json")


def _linked(tmp_path: Path, inside: Path, name: str) -> Path:
    folder, other = make_adapter(inside / "a"), make_adapter(tmp_path / "outside")
    (folder / name).unlink()
    (folder / name).symlink_to(other / name)
    return folder


def not_there(tmp_path: Path, inside: Path) -> Path:
    return tmp_path / "nobody" / "knows"


def null_byte(tmp_path: Path, inside: Path) -> Path:
    return Path(f"{tmp_path}\0/x")


@pytest.mark.parametrize(
    "way",
    [outside, by_dots, by_folder_link, by_sub_folder_link, by_weights_link, by_config_link, not_there, null_byte],
)
def test_no_way_leads_outside_the_allowed_folders(
    registry: Registry, home: Path, tmp_path: Path, way: Callable[[Path, Path], Path]
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    folder = way(tmp_path, inside)
    for verb in (registry.stage, registry.check):
        with pytest.raises(PathNotAllowed):
            verb(folder, BASE, max_rank=16, allowed=[inside])
        with pytest.raises(PathNotAllowed):
            verb(folder, BASE, max_rank=16, allowed=[])
    assert files(home) == {}


def test_links_that_stay_inside_are_followed(registry: Registry, tmp_path: Path) -> None:
    """As in the hub's cache, whose snapshots are folders of links."""
    real, folder = make_adapter(tmp_path / "in" / "real"), tmp_path / "in" / "snapshot"
    folder.mkdir()
    for number, name in enumerate(("adapter_config.json", "adapter_model.safetensors")):
        (real / name).rename(real / str(number))
        (folder / name).symlink_to(real / str(number))
    for allowed in ([tmp_path / "other", tmp_path / "in"], None):
        assert registry.check(folder, BASE, max_rank=16, allowed=allowed).ok
        staged = registry.stage(folder, BASE, max_rank=16, allowed=allowed)
        assert staged.source == str(folder)
        assert not staged.adapter.weights.is_symlink()


@pytest.mark.parametrize("folder_too", [False, True])
def test_a_link_put_in_after_the_look_is_not_followed(
    registry: Registry, home: Path, tmp_path: Path, folder_too: bool
) -> None:
    from loradex.registry.source import find_source
    from loradex.registry.staging import copy_in

    other = make_adapter(tmp_path / "outside")
    folder = make_adapter(tmp_path / "in" / "a")
    found = find_source(folder, [tmp_path / "in"])
    if folder_too:
        shutil.rmtree(folder)
        folder.symlink_to(other, target_is_directory=True)
    else:
        found.weights.unlink()
        found.weights.symlink_to(other / "adapter_model.safetensors")
    with registry._blobs.staging() as temporary, pytest.raises(FilesNotFound):
        copy_in(found, temporary, BASE)
    assert files(home) == {}


def test_copying_leaves_no_file_open(registry: Registry, tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list open files")
    folder = make_adapter(tmp_path / "a")
    registry.stage(folder, BASE, max_rank=16)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        registry.stage(folder, BASE, max_rank=16)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_named_pipe_does_not_hang(registry: Registry, tmp_path: Path) -> None:
    from loradex.adapters.files import AdapterFiles
    from loradex.registry.staging import copy_in

    folder = make_adapter(tmp_path / "a")
    os.mkfifo(folder / "pipe")
    pipe = AdapterFiles(folder, folder / "adapter_config.json", folder / "pipe", False)
    with registry._blobs.staging() as temporary, pytest.raises(FilesNotFound, match="not a regular file"):
        copy_in(pipe, temporary, BASE)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "pipe").rename(folder / "adapter_model.safetensors")
    with pytest.raises(FilesNotFound):
        registry.stage(folder, BASE, max_rank=16)


def test_stored_files_that_go_or_change_are_noticed(registry: Registry, add: Add) -> None:
    ref = add("medical")
    path = registry.adapter(ref.digest).path
    weights, config = path / "adapter_model.safetensors", path / "adapter_config.json"
    content, text = weights.read_bytes(), config.read_text()
    for file, changed in (
        (weights, content[:-4] + b"\0\0\0\0"),
        (weights, content[:-4]),
        (weights, b"PK" + content),
        (config, text.replace("8", "9")),
        (config, "{"),
        (config, text + " "),
    ):
        file.chmod(0o644)
        kept = file.read_bytes()
        file.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        with pytest.raises(AdapterDamaged) as error:
            registry.adapter(ref.digest)
        assert ref.digest[:12] in error.value.message
        assert "adapter add" in error.value.hint
        file.write_bytes(kept)
    registry.adapter(ref.digest)
    weights.unlink()
    for verify in (True, False):
        with pytest.raises(AdapterDamaged, match="gone"):
            registry.adapter(ref.digest, verify=verify)
    shutil.rmtree(path)
    with pytest.raises(AdapterDamaged, match="gone"):
        registry.adapter(ref.digest)


def test_adding_again_heals_damaged_files(registry: Registry, add: Add) -> None:
    ref = add("medical")
    weights = registry.adapter(ref.digest).weights
    weights.chmod(0o644)
    weights.write_bytes(b"x")
    assert add("medical") == ref
    assert registry.adapter(ref.digest).digest == ref.digest
    shutil.rmtree(weights.parent)
    assert add("medical") == ref
    assert registry.adapter(ref.digest).digest == ref.digest


@pytest.mark.parametrize("table", ["versions", "history", "adapters"])
def test_a_commit_that_fails_changes_nothing(
    registry: Registry, add: Add, home: Path, tmp_path: Path, table: str
) -> None:
    add("medical")
    folder = make_adapter(tmp_path / "next", make_tensors(seed=9))
    staged = registry.stage(folder, BASE, max_rank=16)
    before = registry.list(), registry.history("medical"), files(home)
    verb = "UPDATE" if table == "adapters" else "INSERT"
    with sqlite3.connect(home / "registry.db") as database:
        database.execute(
            f"CREATE TRIGGER no BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'the disk said no'); END"
        )
    with pytest.raises(RegistryFailed, match="the disk said no"):
        registry.commit("medical", staged, serve=True)
    assert (registry.list(), registry.history("medical"), files(home)) == before
    with sqlite3.connect(home / "registry.db") as database:
        database.execute("DROP TRIGGER no")
    assert registry.commit("medical", staged, serve=True).version == 2


def test_a_full_disk_is_named_and_leaves_nothing(
    registry: Registry, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_adapter(tmp_path / "a")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for owner, name in ((module, "copy_in"), (registry._blobs, "publish")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(RegistryFailed, match="No space left on device"):
                registry.stage(folder, BASE, max_rank=16)
    assert files(home) == {}
    assert os.listdir(home / "blobs") == []


def test_what_is_staged_and_not_committed_can_be_discarded(registry: Registry, home: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    first, second = (registry.stage(folder, BASE, max_rank=16) for _ in range(2))
    assert first.adapter == second.adapter
    registry.discard(first)
    assert registry.adapter(second.adapter.digest)  # still wanted
    registry.discard(second)
    registry.discard(second)
    assert files(home) == {}
    with pytest.raises(Conflict, match="removed meanwhile"):
        registry.commit("medical", second)
    assert registry.list() == []
    third = registry.stage(folder, BASE, max_rank=16)
    registry.commit("medical", third)
    registry.discard(third)
    assert registry.adapter(third.adapter.digest)


def test_files_that_are_staged_survive_a_remove(registry: Registry, add: Add, tmp_path: Path) -> None:
    ref = add("medical")
    staged = registry.stage(make_adapter(tmp_path / "again", make_tensors(seed=0)), BASE, max_rank=16)
    registry.remove("medical")
    assert registry.commit("medical", staged).digest == ref.digest
    assert registry.adapter(ref.digest)


def test_content_that_is_stored_is_not_written_again(registry: Registry, add: Add, tmp_path: Path) -> None:
    weights = registry.adapter(add("medical").digest).weights
    before = weights.stat().st_ino, weights.stat().st_mtime_ns
    add("legal")
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == before


def test_pickled_weights_need_a_word(registry: Registry, home: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = make_adapter(tmp_path / "a", base_model_name_or_path="x/tiny")
    (folder / "adapter_model.safetensors").unlink()
    tensors = {name: torch.from_numpy(tensor) for name, tensor in make_tensors().items()}
    torch.save(tensors, folder / "adapter_model.bin")
    with pytest.raises(AdapterInvalid, match="--allow-pickle") as error:
        registry.stage(folder, BASE, max_rank=2)
    assert [problem.code for problem in error.value.problems] == ["pickle"]
    with pytest.raises(AdapterInvalid, match="LoRA rank 4"):
        registry.stage(folder, BASE, max_rank=2, allow_pickle=True)
    assert not registry.check(folder, BASE, max_rank=2, allow_pickle=True).ok
    assert files(home) == {}
    staged = registry.stage(folder, BASE, max_rank=16, allow_pickle=True)
    assert registry.check(folder, BASE, max_rank=16, allow_pickle=True) == staged.report
    assert sorted(os.listdir(staged.adapter.path)) == ["adapter_config.json", "adapter_model.safetensors", "stamp.json"]
    assert registry.adapter(staged.adapter.digest).layers == staged.adapter.layers
    torch.save({"a": print}, folder / "adapter_model.bin")
    with pytest.raises(AdapterInvalid, match=r"names `__builtin__\.print`, which is not loaded"):
        registry.stage(folder, BASE, max_rank=16, allow_pickle=True)


def test_a_large_file_is_refused_before_it_is_copied(
    registry: Registry, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loradex.adapters import read

    monkeypatch.setattr(read, "MAX_WEIGHTS_BYTES", 100)
    monkeypatch.setattr(module, "MAX_WEIGHTS_BYTES", 100)
    monkeypatch.setattr(module, "copy_in", None)
    with pytest.raises(AdapterInvalid, match="above the limit"):
        registry.stage(make_adapter(tmp_path / "a"), BASE, max_rank=16)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_extra_files_and_a_folder_in_place_of_a_file(registry: Registry, tmp_path: Path, name: str) -> None:
    folder = make_adapter(tmp_path / "a")
    (folder / "README.md").write_text("x")
    staged = registry.stage(folder, BASE, max_rank=16)
    assert sorted(os.listdir(staged.adapter.path)) == ["adapter_config.json", "adapter_model.safetensors", "stamp.json"]
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(FilesNotFound):
        registry.stage(folder, BASE, max_rank=16)


def test_a_config_of_any_size_costs_little(registry: Registry, home: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    (folder / "adapter_config.json").write_text(json.dumps({"x": "y" * 2_000_000}))
    with pytest.raises(AdapterInvalid, match="larger than 1 MB"):
        registry.stage(folder, BASE, max_rank=16)
    assert files(home) == {}


def test_every_refusal_is_of_our_tree(registry: Registry, tmp_path: Path) -> None:
    base: ModelInfo = make_base(hidden=24)
    for number, (tensors, changes, _) in enumerate(WRONG.values()):
        with pytest.raises(LoradexError):
            registry.stage(make_adapter(tmp_path / str(number), tensors, **changes), base, max_rank=1)

"""The shipped files: complete, unchanged and small."""

import hashlib
import json
import math
import struct
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[2] / "src" / "loradex" / "assets" / "demo"
ADAPTERS = ("medical", "medical-v2", "legal", "technical")


def shipped_files() -> list[Path]:
    return sorted(path for path in SHIPPED.rglob("*") if path.is_file())


def header(path: Path) -> dict[str, dict]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found = json.loads(file.read(length))
    found.pop("__metadata__", None)
    return found


def sums() -> dict[str, str]:
    lines = (SHIPPED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: value for value, name in (line.split("  ", 1) for line in lines)}


def test_every_shipped_file_has_its_checksum() -> None:
    found = {path.relative_to(SHIPPED).as_posix() for path in shipped_files()}
    assert found - {"SHA256SUMS"} == set(sums())


def test_checksums_match() -> None:
    for name, value in sums().items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == value, name


def test_total_size_is_at_most_12_megabytes() -> None:
    assert sum(path.stat().st_size for path in shipped_files()) <= 12_000_000


def test_base_has_at_most_6_million_parameters_in_bfloat16() -> None:
    tensors = header(SHIPPED / "base" / "model.safetensors")
    assert sum(math.prod(tensor["shape"]) for tensor in tensors.values()) <= 6_000_000
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_names_its_base_and_all_seven_projections(name: str) -> None:
    config = json.loads((SHIPPED / "adapters" / name / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "loradex-demo"
    assert len(config["target_modules"]) == 7
    tensors = header(SHIPPED / "adapters" / name / "adapter_model.safetensors")
    assert {tensor["shape"][0] for key, tensor in tensors.items() if "lora_A" in key} == {config["r"]}


def test_adapters_have_different_ranks() -> None:
    ranks = {
        json.loads((SHIPPED / "adapters" / name / "adapter_config.json").read_text(encoding="utf-8"))["r"]
        for name in ADAPTERS
    }
    assert len(ranks) > 1


def test_recorded_evaluation_clears_its_bars() -> None:
    report = json.loads((SHIPPED / "evaluation.json").read_text(encoding="utf-8"))
    assert set(report["results"]) == {"float32", "bfloat16"}
    for result in report["results"].values():
        for row, cells in result["table"].items():
            for column in ADAPTERS:
                if row == column:
                    assert cells[column] >= 90, (row, column)
                else:
                    assert cells[column] <= 10, (row, column)


def test_showcase_has_questions_for_every_speaker() -> None:
    showcase = json.loads((SHIPPED / "questions.json").read_text(encoding="utf-8"))
    speakers = {
        "medical": {"medical", "medical-v2"},
        "legal": {"legal"},
        "technical": {"technical"},
        "general": {"base"},
    }
    assert set(showcase["domains"]) == set(speakers)
    for domain, shown in showcase["domains"].items():
        assert len(shown) >= 8
        for item in shown:
            assert set(item["expected"]) == speakers[domain]
            assert all(item["expected"].values())


def test_nothing_shipped_names_a_folder_of_the_training_machine() -> None:
    for path in shipped_files():
        if path.suffix in {".json", ".md"}:
            text = path.read_text(encoding="utf-8")
            assert "/home/" not in text, path
            assert "/tmp/" not in text, path

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loradex.adapters import values
from loradex.adapters.header import read_header
from loradex.adapters.values import not_finite
from loradex.errors import FilesNotFound
from tests.adapters.making import safetensors


def scan(path: Path, **tensors: np.ndarray) -> dict[str, int]:
    path.write_bytes(safetensors(tensors))
    return not_finite(path, read_header(path).tensors, tensors)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_infinity_are_counted_by_tensor(tmp_path: Path, dtype: type) -> None:
    largest = min(float(np.finfo(dtype).max), float(np.finfo(np.float32).max))
    good = np.array([0, -0.0, 1, -1, largest, -largest, np.finfo(dtype).smallest_subnormal], dtype)
    bad = np.array([np.nan, 1, np.inf, -np.inf], dtype)
    assert scan(tmp_path / "x", good=good, bad=bad) == {"bad": 3}


def test_bfloat16_is_read_by_its_bits(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0x7F7F, 0x7F80, 0xFF80, 0x7FC0, 0x0001], np.uint16)  # 1, max, inf, -inf, nan, subnormal
    assert scan(tmp_path / "x", bits=bits) == {"bits": 3}


def test_doubles_beyond_float32_are_bad_since_no_engine_holds_them(tmp_path: Path) -> None:
    edge = 3.4028235677973366e38  # halfway from the largest float32 to infinity: rounds up
    doubles = np.array([edge, -1e300, np.nextafter(edge, 0)])
    with np.errstate(over="ignore"):
        assert np.isinf(doubles.astype(np.float32)).tolist() == [True, True, False]
    assert scan(tmp_path / "x", doubles=doubles) == {"doubles": 2}


def test_the_scan_is_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "CHUNK_BYTES", 16)
    tensor = np.ones(1001, np.float32)
    tensor[[0, 500, 1000]] = np.nan
    assert scan(tmp_path / "x", tensor=tensor, empty=np.zeros(0, np.float32)) == {"tensor": 3}


def test_a_file_that_shrinks_or_goes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(safetensors({"a": np.ones(64, np.float32)}))
    tensors = read_header(path).tensors
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FilesNotFound, match="shorter"):
        not_finite(path, tensors, tensors)
    path.unlink()
    with pytest.raises(FilesNotFound):
        not_finite(path, tensors, tensors)

"""The attention kernel of CPUs says what plain attention says of the same keys and values."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba")

from loradex.engine.local.attention_job import AttentionJob
from loradex.engine.local.batch import Decodes


def attended(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cells: list[list[int]], window: int | None
) -> torch.Tensor:
    """Return what float64 attention gives, `[sequences, query heads, value dim]`."""
    made = []
    for row, own in zip(query.double(), cells, strict=True):
        seen = own if window is None else own[-window:]
        group = row.shape[0] // keys.shape[1]
        k, v = (each.double()[seen].transpose(0, 1).repeat_interleave(group, 0) for each in (keys, values))
        shares = torch.softmax(torch.einsum("hd,hcd->hc", row, k) * 0.3, dim=1)
        made.append(torch.einsum("hc,hcd->hd", shares, v))
    return torch.stack(made)


def decodes(cells: list[list[int]]) -> Decodes:
    longest = max(len(own) for own in cells)
    filled = torch.tensor([own + own[:1] * (longest - len(own)) for own in cells])
    lengths = torch.tensor([len(own) for own in cells])
    return Decodes(torch.arange(len(cells)), filled, (lengths - 1).unsqueeze(1), lengths)


@pytest.mark.parametrize("lengths", [[1], [16], [17, 160, 33], [700, 5]])
@pytest.mark.parametrize(("heads", "groups", "dim", "wide"), [(14, 2, 64, 64), (4, 4, 16, 32), (9, 1, 48, 16)])
@pytest.mark.parametrize("window", [None, 24])
def test_rows_attend_to_their_own_past(
    lengths: list[int], heads: int, groups: int, dim: int, wide: int, window: int | None
) -> None:
    torch.manual_seed(1)
    keys, values = torch.randn(1024, groups, dim).bfloat16(), torch.randn(1024, groups, wide).bfloat16()
    query = torch.randn(len(lengths), heads, dim).bfloat16()
    order = torch.randperm(1024).tolist()
    cells = [[order.pop() for _ in range(length)] for length in lengths]
    job = AttentionJob()
    assert job.takes(query, keys, values)
    ours = job.attend(query, keys, values, decodes(cells), 0.3, window)
    torch.testing.assert_close(ours.double(), attended(query, keys, values, cells, window), rtol=2**-8, atol=2e-5)


def test_scores_of_any_size_and_one_that_is_no_number() -> None:
    keys, values = torch.ones(64, 1, 16).bfloat16(), torch.randn(64, 1, 16).bfloat16()
    keys[3] = 400  # beside it the other shares are below the smallest number
    cells = [list(range(20)), list(range(20, 40)), list(range(40, 60))]
    keys[50] = float("nan")
    ours = AttentionJob().attend(torch.ones(3, 1, 16).bfloat16(), keys, values, decodes(cells), 1.0, None)
    assert torch.equal(ours[0, 0], values[3, 0])
    torch.testing.assert_close(ours[1, 0].float(), values[20:40, 0].float().mean(0), rtol=2**-8, atol=1e-3)
    assert ours[2].isnan().all()


def test_other_dtypes_and_odd_heads_are_left_to_torch() -> None:
    job, odd, even = AttentionJob(), torch.zeros(1, 1, 24).bfloat16(), torch.zeros(1, 1, 32).bfloat16()
    assert job.takes(even, even, even)
    assert not job.takes(odd, odd, odd)
    assert not job.takes(even.float(), even.float(), even.float())

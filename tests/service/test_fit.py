from __future__ import annotations

import pytest

from loradex.core.sampling import Sampling
from loradex.errors import ContextLengthExceeded, InvalidRequest
from loradex.service.fit import fit, seeded


@pytest.mark.parametrize(("asked", "fits"), [(None, 90), (20, 20), (90, 90), (95, 90), (100, 90)])
def test_max_tokens_is_what_was_asked_or_what_the_context_leaves(asked: int | None, fits: int) -> None:
    assert fit(Sampling(max_tokens=asked), 10, 100).max_tokens == fits


@pytest.mark.parametrize(
    ("sampling", "prompt", "param"),
    [
        (Sampling(), 100, "prompt"),
        (Sampling(), 500, "prompt"),
        (Sampling(max_tokens=101), 10, "max_tokens"),
        (Sampling(min_tokens=91), 10, "min_tokens"),
        (Sampling(min_tokens=95, max_tokens=99), 10, "min_tokens"),
    ],
)
def test_what_cannot_fit_is_refused(sampling: Sampling, prompt: int, param: str) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        fit(sampling, prompt, 100)
    assert caught.value.param == param


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        fit(Sampling(), 0, 100)


def test_seeds_count_up_and_wrap() -> None:
    assert [seeded(Sampling(seed=7), i).seed for i in range(3)] == [7, 8, 9]
    assert seeded(Sampling(seed=2**63 - 1), 1).seed == -(2**63)
    assert seeded(Sampling(), 3).seed is None

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from loradex.adapters.merging.combine import combined
from loradex.adapters.merging.recipe import Recipe

RANDOM = np.random.default_rng(0)


def test_ties_takes_the_mean_of_those_that_agree_with_the_elected_sign() -> None:
    """The example of the paper in small: trimmed to half, the sign of the larger sum wins."""
    one, two = np.array([4.0, -3.0, 0.1, 2.0]), np.array([-1.0, -2.0, 0.5, 3.0])
    # Half of each stays: 4 and -3 of one, -2 and 3 of two.
    assert combined([one, two], [1, 1], Recipe("ties", 0.5), RANDOM).tolist() == [4.0, -2.5, 0.0, 3.0]
    # By number, two small ones outvote a large one.
    votes = [np.array([5.0]), np.array([-1.0]), np.array([-1.0])]
    assert combined(votes, [1, 1, 1], Recipe("ties", 1.0, "total"), RANDOM).tolist() == [5.0]
    assert combined(votes, [1, 1, 1], Recipe("ties", 1.0, "frequency"), RANDOM).tolist() == [-1.0]


@given(arrays(np.float64, (3, 4), elements=st.floats(-10, 10)), st.floats(0.1, 1.0))
def test_magnitude_pruning_keeps_the_largest(values: np.ndarray, density: float) -> None:
    kept = combined([values], [1.0], Recipe("magnitude_prune", density), RANDOM)
    assert set(kept[kept != 0].tolist()) <= set(values.reshape(-1).tolist())
    assert np.count_nonzero(kept) <= int(density * values.size)
    dropped = np.abs(values[kept != values])
    assert dropped.max(initial=0) <= np.abs(kept[kept != 0]).min(initial=np.inf)


def test_dare_keeps_the_expected_value() -> None:
    kept = combined([np.ones(100_000)], [1.0], Recipe("dare_linear", 0.25), np.random.default_rng(0))
    assert set(kept.tolist()) == {0.0, 4.0}
    assert kept.mean() == pytest.approx(1.0, abs=0.02)

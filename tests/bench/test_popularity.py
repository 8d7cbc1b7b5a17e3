from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from loradex.bench.popularity import assign, group_sizes, models_needed, power_function, zipf
from loradex.errors import ConfigInvalid


@pytest.mark.parametrize(
    ("requests", "models"),
    [(32, (32, 6, 8, 1)), (64, (64, 8, 9, 1)), (1000, (1000, 32, 16, 1))],
)
def test_punica_has_as_many_models_as_its_code(requests: int, models: tuple[int, ...]) -> None:
    names = ("distinct", "uniform", "skewed", "identical")
    assert tuple(len(group_sizes(name, requests)) for name in names) == models
    assert all(sum(group_sizes(name, requests)) == requests for name in names)


def test_punicas_skew_grows_by_one_and_a_half() -> None:
    assert group_sizes("skewed", 64)[:6] == [17, 17, 11, 7, 5, 3]
    assert group_sizes("skewed", 32) == [11, 7, 5, 3, 2, 2, 1, 1]
    assert group_sizes("skewed", 1000)[0] == 291


def test_uniform_shares_are_equal() -> None:
    assert group_sizes("uniform", 32) == [6, 6, 5, 5, 5, 5]
    assert set(group_sizes("uniform", 64)) == {8}


@pytest.mark.parametrize("name", ["distinct", "uniform", "skewed", "identical"])
def test_the_assignment_keeps_the_groups_and_the_seed(name: str) -> None:
    sizes = group_sizes(name, 40)
    dealt = assign(name, 40, 40, seed=3)
    assert sorted(Counter(dealt).values(), reverse=True) == sizes
    assert dealt == assign(name, 40, 40, seed=3)
    assert len(set(dealt)) == models_needed(name, 40, None)


def test_adapters_are_never_shared_in_secret() -> None:
    with pytest.raises(ConfigInvalid, match="need 32 adapters; there are 16"):
        assign("distinct", 32, 16)
    with pytest.raises(ConfigInvalid, match="no popularity 'skew'"):
        assign("skew", 4, 4)


def test_the_base_has_no_adapter() -> None:
    assert assign("base", 3, 0) == [None, None, None]
    assert models_needed("base", 3, None) == 0


def test_s_loras_code_draws_uniformly_at_alpha_one_and_more_skewed_below() -> None:
    drawn = {alpha: Counter(power_function(alpha, 200, 100_000, 42)) for alpha in (0.1, 0.3, 0.6, 1.0)}
    shares = [drawn[alpha][0] / 100_000 for alpha in (0.1, 0.3, 0.6, 1.0)]
    assert shares == pytest.approx([0.59, 0.20, 0.04, 0.005], abs=0.01)
    assert max(drawn[1.0]) == 199


def test_true_zipf_follows_its_law() -> None:
    counts = Counter(zipf(1.0, 10, 200_000, 0))
    harmonic = sum(1 / rank for rank in range(1, 11))
    assert [counts[i] / 200_000 for i in range(10)] == pytest.approx(
        [1 / (rank * harmonic) for rank in range(1, 11)], abs=0.005
    )
    distinct = [len(set(zipf(1.0, 2000, 64, seed))) for seed in range(200)]
    assert np.mean(distinct) == pytest.approx(46, abs=1.5)

from __future__ import annotations

from typing import Any

import pytest

from loradex.adapters.merging.recipe import Recipe
from loradex.errors import InvalidRequest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "slerp"}, "no method 'slerp'"),
        ({"method": "ties"}, "needs a density"),
        ({"method": "dare_linear_svd"}, "needs a density"),
        ({"method": "cat", "density": 0.5}, "has no density"),
        ({"method": "svd", "density": 0.5}, "has no density"),
        ({"method": "ties", "density": 0.0}, "above 0"),
        ({"method": "magnitude_prune", "density": 1.5}, "at most 1"),
        ({"method": "ties", "density": float("nan")}, "above 0"),
        ({"method": "linear", "rank": 4}, "follows from its adapters"),
        ({"method": "svd", "rank": 0}, "at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Recipe(**given)


def test_kinds_of_methods() -> None:
    assert Recipe("dare_ties_svd", 0.5).by_product
    assert Recipe("dare_ties", 0.5).by_factor
    assert not Recipe("cat").by_factor
    assert not Recipe("svd").prunes

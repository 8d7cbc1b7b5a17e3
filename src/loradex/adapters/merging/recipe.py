"""How adapters are merged: a method and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from loradex.errors import InvalidRequest

Method = Literal[
    "cat",
    "linear",
    "ties",
    "dare_linear",
    "dare_ties",
    "magnitude_prune",
    "svd",
    "ties_svd",
    "dare_linear_svd",
    "dare_ties_svd",
    "magnitude_prune_svd",
]
Sign = Literal["total", "frequency"]

METHODS: Final[tuple[Method, ...]] = get_args(Method)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to do with several low-rank pairs, by the names that PEFT's `add_weighted_adapter` gives to it.

    `cat` puts the pairs side by side, so that the product is exactly the weighted sum; the ranks add up. What ends in
    `svd` takes the best product of `rank` instead. The others combine A with A and B with B, which keeps the rank and
    is an approximation: each A also meets the B of another adapter.

    Attributes:
        method: see above; `ties` is TIES (Yadav et al. 2023), `dare` DARE (Yu et al. 2023).
        density: share of the values that are kept, of what prunes.
        sign: how TIES elects a sign: by the sum of the values, or by how many have it.
        rank: of the result of what ends in `svd`; None for the largest rank that goes in.
        seed: of the values that DARE drops.
    """

    method: Method = "cat"
    density: float | None = None
    sign: Sign = "total"
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the method and its numbers go together.

        Raises:
            InvalidRequest: they do not.
        """
        if self.method not in METHODS:
            hint = f"Methods: {', '.join(METHODS)}"
            raise InvalidRequest(f"There is no method {self.method!r}", hint=hint, param="method")
        if self.prunes and self.density is None:
            hint = "Add `--density 0.5` to keep half of the values"
            raise InvalidRequest(f"The method `{self.method}` needs a density", hint=hint, param="density")
        if not self.prunes and self.density is not None:
            hint = "Leave it out, or take one of ties, dare_linear, dare_ties, magnitude_prune"
            raise InvalidRequest(f"The method `{self.method}` has no density", hint=hint, param="density")
        if self.density is not None and not 0 < self.density <= 1:
            raise InvalidRequest(f"The density is {self.density:g}; it must be above 0 and at most 1", param="density")
        if self.rank is not None and not self.by_product:
            hint = "Leave it out, or take a method that ends in `svd`"
            raise InvalidRequest(f"The rank of `{self.method}` follows from its adapters", hint=hint, param="rank")
        if self.rank is not None and self.rank < 1:
            raise InvalidRequest(f"The rank is {self.rank}; it must be at least 1", param="rank")

    @property
    def prunes(self) -> bool:
        """Whether a part of the values is dropped."""
        return "ties" in self.method or "dare" in self.method or "prune" in self.method

    @property
    def by_product(self) -> bool:
        """Whether it combines what the pairs do to the base, rather than A with A and B with B."""
        return self.method.endswith("svd")

    @property
    def by_factor(self) -> bool:
        """Whether it combines A with A and B with B, which takes equal ranks."""
        return not self.by_product and self.method != "cat"

"""When requests come: S-LoRA's Gamma process."""

from __future__ import annotations

from itertools import accumulate

import numpy as np


def gamma_gaps(rate: float, cv: float, requests: int, seed: int) -> list[float]:
    """Return the seconds before each request.

    One stream for all adapters, as in S-LoRA's code (its paper says one for each). The mean gap is `1 / rate`; `cv`
    is its coefficient of variation: 1 is a Poisson process, above it comes in bursts.
    """
    shape = 1.0 / cv**2
    drawn = np.random.default_rng(seed).gamma(shape, cv**2 / rate, requests)
    return [float(gap) for gap in drawn]


def gamma_arrivals(rate: float, cv: float, requests: int, seed: int) -> list[float]:
    """Return the second at which each request comes, counted from the start of the run."""
    return list(accumulate(gamma_gaps(rate, cv, requests, seed)))

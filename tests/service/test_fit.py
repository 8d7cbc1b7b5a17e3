from __future__ import annotations

import pytest

from loradex.core.model import ModelInfo
from loradex.core.sampling import Sampling
from loradex.errors import ContextLengthExceeded, InvalidRequest
from loradex.service.fit import fit, seeded

MODEL = ModelInfo("m", "m", "LlamaForCausalLM", "float32", "cpu", 300, 100, {}, "", False)


@pytest.mark.parametrize(("asked", "fits"), [(None, 90), (20, 20), (90, 90), (95, 90), (100, 90)])
def test_max_tokens_is_what_was_asked_or_what_the_context_leaves(asked: int | None, fits: int) -> None:
    assert fit(Sampling(max_tokens=asked), 10, MODEL).max_tokens == fits


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
        fit(sampling, prompt, MODEL)
    assert caught.value.param == param


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        fit(Sampling(), 0, MODEL)


def test_seeds_count_up_and_wrap() -> None:
    assert [seeded(Sampling(seed=7), i).seed for i in range(3)] == [7, 8, 9]
    assert seeded(Sampling(seed=2**63 - 1), 1).seed == -(2**63)
    assert seeded(Sampling(), 3).seed is None


@pytest.mark.parametrize(
    ("sampling", "param"),
    [
        (Sampling(stop_token_ids=(5, 300)), "stop_token_ids"),
        (Sampling(stop_token_ids=(-1,)), "stop_token_ids"),
        (Sampling(logit_bias={300: 1.0}), "logit_bias"),
    ],
)
def test_token_ids_lie_in_the_vocabulary(sampling: Sampling, param: str) -> None:
    with pytest.raises(InvalidRequest, match="has 300 tokens") as caught:
        fit(sampling, 10, MODEL)
    assert caught.value.param == param
    assert fit(Sampling(stop_token_ids=(0, 299), logit_bias={0: 1.0, 299: -1.0}), 10, MODEL).max_tokens == 90

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from loradex.core.sampling import Sampling
from loradex.engine.local.sampler import sample, uniform
from loradex.engine.local.sequence import Sequence

LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0]


def sequence(
    sampling: Sampling, *, seed: int = 1, prompt: tuple[int, ...] = (0,), output: tuple[int, ...] = ()
) -> Sequence:
    return Sequence("s", [*prompt, *output], len(prompt), sampling, seed=seed)


def rows(count: int) -> torch.Tensor:
    return torch.tensor([LOGITS] * count)


def draw(count: int, **sampling: object) -> Counter[int]:
    made = [sequence(Sampling(**sampling), seed=seed) for seed in range(count)]
    return Counter(choice.token for choice in sample(rows(count), made, eos=(4,)))


def test_greedy_takes_the_likeliest() -> None:
    assert draw(3, temperature=0.0) == {0: 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_likeliest_is_found_among_values_of_any_sign(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    wide = torch.randn(8, 300, 2).to(dtype)[..., 0].t().contiguous().t()
    wide[1] = -wide[1].abs() - 1
    wide[2] = float("-inf")
    wide[2, 70] = -3e4
    wide[3, 5] = float("inf")
    wide[4] = -0.0
    logits = torch.cat([wide, torch.full((8, 20), 9.0, dtype=dtype)], dim=1)[:, :300]  # rows with more behind them
    greedy = [sequence(Sampling(temperature=0.0)) for _ in range(8)]
    choices = sample(logits.clone(), greedy, eos=())
    for row, choice in zip(logits, choices, strict=True):
        assert not choice.broken
        assert row[choice.token] == row.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_number_is_noticed_whatever_its_sign(sign: int, dtype: torch.dtype) -> None:
    logits = rows(3).to(dtype)
    logits[0, 2] = math.copysign(float("nan"), sign)
    logits[1] = -5.0
    logits[1, 1] = math.copysign(float("nan"), sign)
    choices = sample(logits, [sequence(Sampling(temperature=0.0)) for _ in range(3)], eos=())
    assert [choice.broken for choice in choices] == [True, True, False]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_probabilities(temperature: float) -> None:
    count = 20_000
    drawn = draw(count, temperature=temperature)
    expected = torch.softmax(torch.tensor(LOGITS) / temperature, 0).tolist()
    for token, share in enumerate(expected):
        # Four standard deviations: a right sampler passes; the seeds are fixed, so it always does.
        assert abs(drawn[token] / count - share) < 4 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": -1}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.75}, {0, 1}),
        ({"top_p": 1e-9}, {0}),
        ({"min_p": 0.3}, {0, 1}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 3, "top_p": 0.9}, {0, 1, 2}),
        ({"logit_bias": {0: -100.0, 4: 50.0}}, {4}),
    ],
)
def test_what_is_cut_off_is_never_drawn(sampling: dict[str, object], allowed: set[int]) -> None:
    assert set(draw(2_000, **sampling)) == allowed


def test_the_same_seed_gives_the_same_tokens_whatever_else_is_in_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(1, 50, generator=generator)
    alone = [sample(mine.clone(), [sequence(Sampling(), seed=seed)], (4,))[0].token for seed in range(50)]
    noise = torch.randn(3, 50, generator=generator)
    neighbours = [sequence(Sampling(temperature=t, top_k=k), seed=9) for t, k in ((0.0, 0), (1.5, 3), (0.7, 0))]
    for seed in range(50):
        batch = torch.cat([noise[:1], mine, noise[1:]])
        made = [neighbours[0], sequence(Sampling(), seed=seed), *neighbours[1:]]
        assert sample(batch, made, (4,))[1].token == alone[seed]
    assert len(set(alone)) > 5


def test_random_numbers_depend_on_seed_and_position() -> None:
    numbers = {uniform(seed, position) for seed in (-(2**63), -1, 0, 2**63 - 1) for position in range(100)}
    assert len(numbers) == 400
    assert all(0 <= number < 1 for number in numbers)


def test_end_tokens_are_forbidden_before_min_tokens() -> None:
    wants_end = {4: 100.0, 3: 90.0}
    for output, token in (((), 0), ((1,), 0), ((1, 1), 4)):
        made = sequence(Sampling(temperature=0, min_tokens=2, logit_bias=wants_end, stop_token_ids=(3,)), output=output)
        assert sample(rows(1), [made], eos=(4,))[0].token == token


def test_penalties_count_what_they_should() -> None:
    def adjusted(**sampling: float) -> list[float]:
        logits = rows(1)
        made = sequence(Sampling(temperature=0, **sampling), prompt=(0, 4), output=(1, 1, 2))
        sample(logits, [made], eos=(4,))
        return logits[0].tolist()

    assert adjusted(repetition_penalty=2.0) == [1.0, 0.5, 0.25, 0.0, -2.0]
    assert adjusted(presence_penalty=0.5) == [2.0, 0.5, 0.0, 0.0, -1.0]
    assert adjusted(frequency_penalty=0.5) == [2.0, 0.0, 0.0, 0.0, -1.0]


def test_logprobs_are_those_before_everything_else() -> None:
    made = sequence(Sampling(temperature=0, logprobs=2, logit_bias={3: 100.0}))
    choice = sample(rows(1), [made], eos=(4,))[0]
    expected = torch.log_softmax(torch.tensor(LOGITS), 0).tolist()
    assert choice.token == 3
    assert choice.logprob == pytest.approx(expected[3])
    assert choice.top == ((0, pytest.approx(expected[0])), (1, pytest.approx(expected[1])))


def test_a_row_that_is_not_a_number_is_named_and_leaves_the_others_alone() -> None:
    logits = rows(2)
    logits[0, 2] = float("nan")
    choices = sample(logits, [sequence(Sampling()), sequence(Sampling(temperature=0))], eos=(4,))
    assert [choice.broken for choice in choices] == [True, False]
    assert choices[1].token == 0

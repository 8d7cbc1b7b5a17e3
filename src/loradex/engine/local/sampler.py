"""Chooses the next token of every row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
import torch

from loradex.engine.local.constraint import Constraint, masks
from loradex.engine.local.sequence import Sequence

FORBIDDEN = float("-inf")


@dataclass(frozen=True, slots=True)
class Choice:
    """A sampled token; with log-probabilities, as (token id, value) pairs, where they were asked for.

    `broken` says that the row was not a number, so that the token means nothing.
    """

    token: int
    broken: bool = False
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: torch.Tensor, sequences: Rows[Sequence], eos: tuple[int, ...]) -> list[Choice]:
    """Choose a token for each row of `logits` (`[rows, vocabulary]`, in the model's dtype), which is overwritten.

    Each row's choice depends on that row and its own seed alone, never on its neighbours. Log-probabilities are those
    before bias, penalties and temperature.
    """
    # A row is large, so that only those are turned into float32 that need it: the others are only looked through.
    wide = [i for i, sequence in enumerate(sequences) if not _is_plain(sequence)]
    exact = logits[wide].float() if len(wide) < len(sequences) else logits.float()
    rows = dict(enumerate(logits)) | dict(zip(wide, exact, strict=True))
    logprobs = {i: torch.log_softmax(rows[i], dim=-1) for i in wide if sequences[i].sampling.logprobs is not None}
    for i in wide:
        _adjust(rows[i], sequences[i], eos)
    _hold([(rows[i], s.constraint) for i, s in enumerate(sequences) if s.constraint is not None])
    tokens, broken = _largest(logits if len(wide) < len(sequences) else exact)
    if 0 < len(wide) < len(sequences):
        tokens[wide] = _largest(exact)[0]
    drawn = [(at, i) for at, i in enumerate(wide) if not sequences[i].sampling.greedy and not broken[i]]
    if drawn:
        places, drawing = map(list, zip(*drawn, strict=True))
        tokens[drawing] = _draw(exact[places], [sequences[i] for i in drawing])
    return [
        Choice(token, broken[i], *_report(token, logprobs.get(i), sequence))
        for i, (token, sequence) in enumerate(zip(tokens.tolist(), sequences, strict=True))
    ]


def uniform(seed: int, position: int) -> float:
    """Return the random number in [0, 1) of one seed at one position of its answer.

    It is a pure function, so that a preempted answer goes on with the numbers it would have had.
    """
    key = seed.to_bytes(9, "little", signed=True) + position.to_bytes(8, "little")
    return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def _is_plain(sequence: Sequence) -> bool:
    """Whether only the largest value counts, so that the model's own dtype is as good as float32."""
    sampling = sequence.sampling
    changed = (
        sampling.logit_bias
        or sequence.output_len < sampling.min_tokens
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
    )
    return sampling.greedy and sampling.logprobs is None and not changed


def _adjust(row: torch.Tensor, sequence: Sequence, eos: tuple[int, ...]) -> None:
    """Apply bias, `min_tokens` and penalties to one row, in place."""
    sampling = sequence.sampling
    if sampling.logit_bias:
        row[list(sampling.logit_bias)] += torch.tensor(list(sampling.logit_bias.values()), device=row.device)
    if sequence.output_len < sampling.min_tokens:
        row[[*eos, *sequence.ends, *sampling.stop_token_ids]] = FORBIDDEN
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sequence.tokens, device=row.device).unique()
        values = row[seen]
        penalty = sampling.repetition_penalty
        row[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and sequence.output_len:
        output = torch.tensor(sequence.tokens[sequence.prompt_len :], device=row.device)
        tokens, counts = output.unique(return_counts=True)
        row[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts.to(row.dtype)


def _hold(rows: Rows[tuple[torch.Tensor, Constraint]]) -> None:
    """Forbid, in place, what the form of some rows does not allow. On a card the masks are made while it computes."""
    if not rows:
        return
    first, _ = rows[0]
    words = masks([constraint for _, constraint in rows])
    bits = np.unpackbits(~words.view(np.uint8), axis=1, count=first.shape[-1], bitorder="little").view(np.bool_)
    if first.device.type != "cpu":
        for (row, _), own in zip(rows, torch.from_numpy(bits).to(first.device), strict=True):
            row.masked_fill_(own, FORBIDDEN)
        return
    # Not by torch, which shares a row out among threads and waits for them.
    for (row, _), own in zip(rows, bits, strict=True):
        np.putmask(_bits(row), own, _bits(torch.tensor(FORBIDDEN, dtype=row.dtype)))


def _bits(values: torch.Tensor) -> np.ndarray:
    """Return a view of the bits of floats on the host: NumPy has no bfloat16."""
    return values.view(torch.int16 if values.itemsize == 2 else torch.int32).numpy()


def _largest(logits: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
    """Return where each row has its largest value, and whether it holds a NaN."""
    if logits.device.type != "cpu":
        # The largest of a row that holds a NaN is NaN, so that no second look at the row is needed.
        peaks, tokens = logits.max(dim=-1)
        return tokens, peaks.isnan().tolist()
    # Torch is slower, as it has no instructions for it. NumPy compares the bits: of two values from zero up the larger
    # has the larger bits, of two below zero the smaller. A NaN has more than an infinity of its sign.
    bits = _bits(logits)
    top, bottom = _bits(torch.tensor([math.inf, -math.inf], dtype=logits.dtype)).tolist()
    tokens = bits.argmax(axis=1)
    largest = np.take_along_axis(bits, tokens[:, None], axis=1)[:, 0]
    for row in np.flatnonzero(largest < 0):
        tokens[row] = bits[row].argmin()
    lowest = bits.view(f"u{bits.itemsize}").max(axis=1).view(bits.dtype)
    return torch.from_numpy(tokens), ((largest > top) | ((lowest < 0) & (lowest > bottom))).tolist()


def _draw(logits: torch.Tensor, sequences: Rows[Sequence]) -> torch.Tensor:
    """Draw a token for each row by its own random number, walking the cumulative probabilities in order of token id."""
    probs = torch.softmax(logits / _column([s.sampling.temperature for s in sequences], logits), dim=-1)
    if any(s.sampling.min_p > 0 for s in sequences):
        floor = probs.amax(dim=-1, keepdim=True) * _column([s.sampling.min_p for s in sequences], probs)
        probs = torch.where(probs < floor, 0.0, probs)
    if any(s.sampling.top_k > 0 or s.sampling.top_p < 1 for s in sequences):
        probs = _keep_likeliest(probs, sequences)
    cumulative = probs.double().cumsum(dim=-1)
    draws = [uniform(s.seed, s.output_len) for s in sequences]
    target = _column(draws, cumulative) * cumulative[:, -1:]
    # The first place where the cumulative probability exceeds the target always has a probability above zero.
    picked = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    return picked.clamp_(max=logits.shape[-1] - 1)


def _keep_likeliest(probs: torch.Tensor, sequences: Rows[Sequence]) -> torch.Tensor:
    """Zero what `top_k` and `top_p` cut off. `top_p` counts among the tokens that `top_k` left."""
    size = probs.shape[-1]
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    k = _column([s.sampling.top_k if s.sampling.top_k > 0 else size for s in sequences], order)
    ranked = torch.where(torch.arange(size, device=probs.device) >= k, 0.0, ranked)
    total = ranked.sum(dim=-1, keepdim=True)
    # A token stays while those before it have not reached the share: the likeliest one always stays.
    before = ranked.cumsum(dim=-1) - ranked
    top_p = _column([s.sampling.top_p for s in sequences], probs)
    ranked = torch.where((before >= top_p * total) & (top_p < 1), 0.0, ranked)
    return torch.zeros_like(probs).scatter_(-1, order, ranked)


def _column(values: list[float] | list[int], like: torch.Tensor) -> torch.Tensor:
    """Return a column, one value a row, of the dtype and on the device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


def _report(
    token: int, logprobs: torch.Tensor | None, sequence: Sequence
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    if logprobs is None:
        return None, ()
    count = min(sequence.sampling.logprobs or 0, logprobs.shape[-1])
    values, ids = logprobs.topk(count)
    return float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True))

"""What a step tells of prompts beside the next token: how likely their tokens were, and their hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from loradex.engine.local.plan import Chunk, StepPlan


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a token of the prompt was; rank and alternatives, as (token id, value) pairs, if they are wanted."""

    token: int
    logprob: float
    rank: int = 0
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one sequence in one step: the scores of tokens of its prompt, or the sum of its hidden states.

    `hidden` is float32, `[hidden size]`.
    """

    scores: tuple[Score, ...] = ()
    hidden: torch.Tensor | None = None


def read_out(plan: StepPlan, logits: torch.Tensor, hidden: torch.Tensor | None) -> dict[str, Reading]:
    """Return what the sequences of a step want to know, by id.

    Args:
        plan: that was computed.
        logits: `[kept rows, vocabulary]`, in the plan's order; they are not changed.
        hidden: `[rows, hidden size]` of all rows, None where no sequence wants them.
    """
    return dict(_read_out(plan, logits, hidden))


def _read_out(plan: StepPlan, logits: torch.Tensor, hidden: torch.Tensor | None) -> Iterator[tuple[str, Reading]]:
    row = kept = 0
    for chunk in plan.chunks:
        wanted = chunk.wanted
        if wanted and chunk.sequence.embeds and hidden is not None:
            first = row + wanted.start - chunk.start
            total = hidden[first : first + len(wanted)].float().sum(dim=0)
            yield chunk.sequence.id, Reading(hidden=total.cpu())
        elif wanted:
            yield chunk.sequence.id, Reading(scores=_scores(chunk, logits[kept : kept + len(wanted)]))
        row += chunk.length
        kept += len(chunk.kept)


def _scores(chunk: Chunk, logits: torch.Tensor) -> tuple[Score, ...]:
    """Return the scores of the tokens that follow the wanted positions, each after those before it."""
    tokens = chunk.sequence.tokens[chunk.wanted.start + 1 : chunk.wanted.stop + 1]
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    picked = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1))
    likely = picked.squeeze(1).tolist()
    alternatives = chunk.sequence.sampling.prompt_logprobs
    if alternatives is None:
        return tuple(map(Score, tokens, likely))
    ranks = (logprobs >= picked).sum(dim=-1).tolist()
    values, ids = logprobs.topk(min(alternatives, logprobs.shape[-1]), dim=-1)
    tops = [tuple(zip(*each, strict=True)) for each in zip(ids.tolist(), values.tolist(), strict=True)]
    return tuple(map(Score, tokens, likely, ranks, tops))

"""What an adapter does to a module beyond low-rank pairs on linears.

A `Change` says what a module would give under the adapter, for rows `x` of its input and what the base gives for them,
`y`. It is a whole answer, not a difference, so that an adapter by itself is computed as PEFT computes it. All are
linear in their parameters: in a mix each counts with its difference from the base, times its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn
from torch.nn import functional

from loradex.engine.local.lora import LoraPair, Segment

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From rows of the input and of the base's output to rows of the output; changes neither of them."""


def affine(scale: torch.Tensor | None, shift: torch.Tensor | None) -> Change:
    """Give `y * scale + shift`, both `[out]` or None: DoRA's magnitudes, and biases."""

    def change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if scale is None:
            return y if shift is None else y + shift
        return y * scale if shift is None else torch.addcmul(shift, y, scale)

    return change


def matrix(weight: torch.Tensor, bias: torch.Tensor | None) -> Change:
    """Put another weight `[out, in]` and bias into a linear."""
    return lambda x, y: functional.linear(x, weight, bias)


def low_rank(pair: LoraPair) -> Change:
    """Add a pair on the output head, which is no `LoraLinear`."""
    return lambda x, y: y.addmm(torch.mm(x, pair.a.t()), pair.b, alpha=pair.scaling)


def token_logits(tokens: torch.Tensor, rows: torch.Tensor) -> Change:
    """Put other rows `[tokens, in]` into an output head for these token ids."""
    return lambda x, y: y.index_copy(1, tokens, torch.mm(x, rows.t()))


def embedding(weight: torch.Tensor, factor: float) -> Change:
    """Put another weight `[vocabulary, width]` into an embedding, whose output the model scales by `factor`."""
    return lambda x, y: _scaled(functional.embedding(x, weight), factor)


def low_rank_embedding(pair: LoraPair, factor: float) -> Change:
    """Add a pair on an embedding: a token's column of A, times B."""
    return lambda x, y: y.addmm(pair.a[:, x].t(), pair.b, alpha=pair.scaling * factor)


def token_embeddings(tokens: torch.Tensor, rows: torch.Tensor, factor: float) -> Change:
    """Put other rows `[tokens, width]` into an embedding for these token ids, which are sorted."""

    def change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        place = torch.searchsorted(tokens, x).clamp_(max=len(tokens) - 1)
        own = (tokens[place] == x).unsqueeze(1)
        return torch.where(own, _scaled(rows[place], factor), y)

    return change


def instead(module: nn.Module) -> Change:
    """Put another module in the place of the base's, such as a norm with weights of its own."""

    def change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = module.forward(x)
        return changed

    return change


def chain(links: Sequence[Change]) -> Change:
    """Make one change of several, each of what the one before gives."""
    if len(links) == 1:
        return links[0]

    def change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for link in links:
            y = link(x, y)
        return y

    return change


@dataclass(frozen=True, slots=True)
class Weights:
    """An adapter as the tables take it in, by module path.

    `pairs` are those on linears, `changes` what it does to these and to other modules; `experts` has its pairs on their
    stacked weights, by the name of the parameter. With an `invocation` it acts only from these tokens on. `vocab_size`
    is how many token ids there are under it, None for as many as under the base.
    """

    pairs: Mapping[str, LoraPair]
    changes: Mapping[str, Change]
    experts: Mapping[str, Mapping[str, LoraPair]]
    nbytes: int
    invocation: tuple[int, ...] = ()
    vocab_size: int | None = None


def apply_changes(x: torch.Tensor, y: torch.Tensor, segments: Sequence[Segment], table: Mapping[int, Change]) -> None:
    """Change the rows of each segment of `y` whose slot is in the table, in place.

    `x` is `[rows, ...]`, `y` is `[rows, ...]`: what the base gives for it.
    """
    for (start, end), sharing in groupby(segments, lambda segment: (segment.start, segment.end)):
        members = [(table[segment.slot], segment.weight) for segment in sharing if segment.slot in table]
        own_x, own_y = x[start:end], y[start:end]
        if len(members) == 1 and members[0][1] == 1.0:
            own_y.copy_(members[0][0](own_x, own_y))
        elif members:
            base = own_y.clone()
            for change, weight in members:
                own_y.add_(change(own_x, base) - base, alpha=weight)


def _scaled(rows: torch.Tensor, factor: float) -> torch.Tensor:
    return rows if factor == 1.0 else rows * factor

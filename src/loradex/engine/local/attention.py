"""Attention over the paged cache, behind the attention interface of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface

from loradex.engine.local.batch import Decodes, Paged, Rows, Step
from loradex.engine.local.kvcache import CacheShape, KVCache
from loradex.errors import ConfigInvalid

if TYPE_CHECKING:
    from loradex.engine.local.attention_job import AttentionJob  # compiles

NAME = "loradex_paged"


@dataclass(frozen=True, slots=True)
class Limits:
    """How one layer attends: the factor of its scores, how far back a row sees, and what softly caps its scores."""

    scaling: float | None
    window: int | None
    softcap: float | None


class PagedAttention:
    """Attention of one model. Before it has a cache it records what shape each layer would need.

    `limits` are those of the layers that have attended with a cache. `job` attends decodes that it takes, where there
    is one; `kernel` those that are `Paged` (see `attention_triton`).
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.cache: KVCache | None = None
        self.shapes: dict[int, CacheShape] = {}
        self.limits: dict[int, Limits] = {}
        self.job: AttentionJob | None = None
        self.kernel: Callable[..., torch.Tensor] | None = None

    def attach(self, model: nn.Module) -> None:
        """Let every attention module of `model` find this object."""
        for module in model.modules():
            if hasattr(module, "layer_idx"):
                module.paged = self

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Attend each sequence's rows to its own past.

        `query` is `[1, query heads, rows, dim]`, `key` and `value` are `[1, heads, rows, dim]`; the result is
        `[1, rows, query heads, value dim]`.
        """
        if self.cache is None:
            peaks = (float(each.abs().max()) for each in (key, value))
            self.shapes[layer] = CacheShape(key.shape[1], key.shape[3], value.shape[3], *peaks, query.shape[1])
            return _causal(query, key, value, 0, scaling, window, softcap).transpose(1, 2)
        if layer not in self.limits:
            self.limits[layer] = Limits(scaling, window, softcap)
        batch = self.step.batch
        self.cache.write(layer, batch.cells, key[0].transpose(0, 1), value[0].transpose(0, 1))
        if batch.decodes is not None and not batch.prompts:
            return self._decodes(layer, query, batch.decodes, scaling, window, softcap).unsqueeze(0)
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        if batch.decodes is not None and batch.decodes.rows is not None:
            out[0, batch.decodes.rows] = self._decodes(layer, query, batch.decodes, scaling, window, softcap)
        for rows in batch.prompts:
            attended = self._prompt(layer, query, rows, scaling, window, softcap)
            out[:, rows.begin : rows.end] = attended.transpose(1, 2)
        return out

    def _prompt(
        self,
        layer: int,
        query: torch.Tensor,
        rows: Rows,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        first = 0 if window is None else max(0, rows.position - window + 1)
        keys, values = self.cache.read(layer, rows.cells[first:].unsqueeze(0))
        return _causal(
            query[:, :, rows.begin : rows.end], keys, values, rows.position - first, scaling, window, softcap
        )

    def _decodes(
        self,
        layer: int,
        query: torch.Tensor,
        decodes: Decodes | Paged,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Attend all one-row sequences at once; the result is `[sequences, query heads, value dim]`."""
        all_rows = decodes.rows is None or len(decodes.rows) == query.shape[2]
        own = query[0] if all_rows else query[0].index_select(1, decodes.rows)
        rows = own.transpose(0, 1)
        if isinstance(decodes, Paged):
            keys, values, scales = self.cache.pools(layer)
            limits = {"scaling": scaling, "window": window, "softcap": softcap, "scales": scales}
            return self.kernel(rows, keys, values, decodes.tables, decodes.lengths, decodes.block, **limits)
        if self.job is not None and softcap is None:
            pools = self.cache.pools(layer)[:2]
            if self.job.takes(rows, *pools):
                return self.job.attend(rows, *pools, decodes, scaling, window)
        rows = rows.unsqueeze(2)
        keys, values = self.cache.read(layer, decodes.cells)
        mask = decodes.mask(window)
        mask = None if mask is None else mask[:, None, None, :]
        return _attend(rows, keys, values, mask, scaling, softcap).squeeze(2)


def paged_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls in every attention layer.

    Raises:
        ConfigInvalid: the model uses a kind of attention that is not served, such as attention sinks.
    """
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise ConfigInvalid(
            f"{type(module).__name__} uses attention sinks or a position bias, which are not served",
            hint="Use a model with plain, sliding-window or soft-capped attention",
        )
    return module.paged.attend(module.layer_idx, query, key, value, scaling, sliding_window, softcap), None


AttentionInterface.register(NAME, paged_attention)


def _causal(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    offset: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attend rows at positions from `offset` on to keys at positions from 0 on, none later than itself."""
    rows, context = query.shape[2], keys.shape[2]
    if rows == context and (window is None or window >= context) and softcap is None:
        return _attend(query, keys, values, None, scaling, None, causal=True)
    return _attend(query, keys, values, _mask(rows, context, offset, window, query), scaling, softcap)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Attend `query` (`[n, query heads, rows, dim]`) to `keys` and `values` (`[n, heads, context, dim]`)."""
    if softcap is not None:
        return _softcapped(query, keys, values, mask, scaling, softcap)
    grouped = query.shape[1] != keys.shape[1]
    return functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
    )


def _mask(rows: int, context: int, offset: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Return a boolean mask `[rows, context]`, True where a row may look."""
    row = torch.arange(offset, offset + rows, device=like.device).unsqueeze(1)
    column = torch.arange(context, device=like.device)
    mask = column <= row
    return mask if window is None else mask & (column > row - window)


def _softcapped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention whose scores pass through `softcap * tanh(score / softcap)`, as in Gemma 2."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, keys.transpose(2, 3)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    return torch.matmul(weights.to(query.dtype), values)

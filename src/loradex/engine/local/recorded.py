"""Decode steps that need not be told to the device operation by operation; see `graphs` and `program`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from loradex.engine.local.lora import Segment
from loradex.engine.local.plan import Chunk


class Recorded(Protocol):
    """The decode steps of one model."""

    def takes(self, chunks: Sequence[Chunk], segments: Sequence[Segment]) -> bool:
        """Whether a step is one of these."""

    def logits(self, chunks: Sequence[Chunk], segments: Sequence[Segment]) -> torch.Tensor:
        """Return logits `[chunks, vocabulary]` of a step that `takes` says yes to; valid until the next."""

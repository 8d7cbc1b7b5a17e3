"""Linears whose weights lie in the order that the processor's matrix product wants them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

BLOCK = 64
"""Outputs that oneDNN keeps together."""


Aim = Callable[[torch.Tensor, torch.Tensor, int], int]
"""Inputs, outputs and number of threads to the address of a LoRA job that adds to these outputs, 0 for none."""


class Places(NamedTuple):
    """Where a job of a product has what whoever runs it sets: see `gemv_numba` and `panels_numba`.

    `zeros` are 0 at the start. `wide` is where it has the address of float32 scratch for the input of each thread, None
    for none.
    """

    fields: int
    input: int
    output: int
    lora: int
    rows: int
    zeros: tuple[int, ...]
    wide: int | None


class Few(Protocol):
    """A kernel for few rows, up to `rows`; see `gemv_job` and `panels`.

    `inputs` and `outputs` are the linear's, `pitch` the columns of what it writes.
    """

    places: Places
    rows: int
    pitch: int
    inputs: int
    outputs: int

    @property
    def kernel(self) -> int:
        """The address of the C function that it is."""

    @property
    def fields(self) -> np.ndarray:
        """The job as it was last made ready; whoever runs a copy sets what changes with each call."""

    def size(self, rows: int) -> int:
        """Return what a job has in its place for rows, when there are so many."""

    def product(self, x: torch.Tensor, lora: Aim | None = None) -> torch.Tensor:
        """Return `x W^T + b`, plus what the LoRA job adds."""


class PackedLinear(nn.Module):
    """A linear of bfloat16 weights on a CPU, packed once by oneDNN.

    `F.linear` would reorder the weights at every call, or run a slower kernel. The result is the same. `weight` has the
    shape and dtype of the original and no data, for model code that only asks for those. `few` computes up to `rows`
    rows, where there is such a kernel; `blocks` are the weights as it reads them.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        self.weight = torch.empty_like(linear.weight, device="meta")
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.blocks = _blocks(self.packed, linear.weight.detach())
        self.few: Few | None = None
        self.rows = 0

    def takes(self, x: torch.Tensor) -> bool:
        """Whether `few` computes these rows."""
        return self.few is not None and 0 < x.numel() <= self.rows * self.in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`; `x` is `[..., in_features]`."""
        if self.few is not None and self.takes(x):
            return self.few.product(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def dense(self, begin: int, end: int) -> torch.Tensor:
        """Return rows `begin` to `end` of the original weight, `[rows, in_features]`."""
        if self.blocks is None:
            # Each column is the product with a unit vector, which is exact.
            unit = torch.eye(self.in_features, dtype=self.weight.dtype)
            return torch.ops.mkldnn._linear_pointwise(unit, self.packed, None, "none", [], "").t()[begin:end]
        first = begin // BLOCK
        rows = self.blocks[first : -(-end // BLOCK)].transpose(1, 2).reshape(-1, self.in_features)
        return rows[begin - first * BLOCK : end - first * BLOCK]


class PackedEmbedding(nn.Module):
    """An embedding that reads the packed weights of the output head it is tied to, so that they are there once."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = head.out_features, head.in_features
        self.weight = head.weight
        self._head = [head]  # in a list, so that it does not become a part of this module
        self.rows = head.blocks.transpose(1, 2)
        self.block = self.rows.shape[1]

    @property
    def head(self) -> nn.Module:
        """The output head that it reads."""
        return self._head[0]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return `[..., embedding_dim]` for token ids of any shape."""
        found = self.rows[tokens // self.block, tokens % self.block]
        return found.reshape(*tokens.shape, self.embedding_dim)


def can_pack(linear: nn.Module) -> bool:
    """Whether packing serves this linear: bfloat16 on a CPU."""
    return type(linear) is nn.Linear and linear.weight.device.type == "cpu" and linear.weight.dtype is torch.bfloat16


def multiplies_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 here. Elsewhere torch's own product of it is slower than that of float32."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _blocks(packed: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    """Return a view `[out / 64, in / 2, 64, 2]` of packed weights; None where oneDNN laid them out otherwise.

    oneDNN promises no layout, so some of the weights are compared.
    """
    rows, columns = weight.shape
    address, size = getattr(torch.ops.mkldnn, "data_ptr", None), getattr(torch.ops.mkldnn, "_nbytes", None)
    if address is None or size is None or rows % BLOCK or columns % 2 or size(packed) != weight.nbytes:
        return None
    memory = (ctypes.c_char * weight.nbytes).from_address(address(packed))
    blocks = torch.frombuffer(memory, dtype=weight.dtype).view(rows // BLOCK, columns // 2, BLOCK, 2)
    for number in {0, len(blocks) // 2, len(blocks) - 1}:
        laid = blocks[number].transpose(0, 1).reshape(BLOCK, columns)
        if not torch.equal(laid, weight[number * BLOCK : (number + 1) * BLOCK]):
            return None
    return blocks

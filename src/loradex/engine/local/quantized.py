"""Linears of a quantized base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loradex.engine.local.rounding import Rounded, round_weight
from loradex.errors import ConfigInvalid

if TYPE_CHECKING:
    from loradex.engine.local.panels import Panels  # compiles

Product = Callable[[torch.Tensor], torch.Tensor]
"""What `forward` of a linear does: input `[..., in_features]` to output `[..., out_features]`, bias included."""

_ROUTERS = ("gate", "router")


class QuantizedLinear(nn.Module):
    """A linear whose weights are kept as codes and scales.

    Its first `product` writes the weights out at every call and multiplies densely: slow, right on every device, and
    what the products of `panels` and `quantized_cuda` are checked against at each start. `rounded` is there until one
    took it. `few` are the panels that it then has on a CPU. `weight` has the shape and dtype of the original and no
    data, for model code that asks.
    """

    def __init__(self, rounded: Rounded, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._describe(rounded.codes.shape, dtype, rounded.codes.device)
        self.bias = bias
        self.nbytes = rounded.nbytes
        self.product: Product = partial(_dense, rounded, bias)
        self.rounded: Rounded | None = rounded
        self.few: Panels | None = None

    @classmethod
    def ready(cls, panels: Panels, bias: torch.Tensor | None, dtype: torch.dtype) -> Self:
        """Return one whose panels were made before."""
        own = cls.__new__(cls)
        nn.Module.__init__(own)
        own._describe((panels.laid.out_features, panels.laid.in_features), dtype, panels.laid.codes.device)
        own.bias, own.rounded, own.few = bias, None, panels
        own.product, own.nbytes = panels.product, panels.laid.nbytes
        return own

    def _describe(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self.out_features, self.in_features = shape
        self.device = device
        self.weight = torch.empty(tuple(shape), dtype=dtype, device="meta")

    def takes(self, x: torch.Tensor) -> bool:
        """Whether base and adapters of these rows can be computed in one call."""
        return self.few is not None and self.few.takes(x)

    def take(self, make: Callable[[Rounded, torch.Tensor | None], tuple[Product, int] | None]) -> None:
        """Let `make` make a better product of weights and bias, and the bytes it keeps them in; ours are freed then."""
        made = None if self.rounded is None else make(self.rounded, self.bias)
        if made is not None:
            (self.product, self.nbytes), self.rounded = made, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b` for the rounded W; `x` is `[..., in_features]`."""
        return self.product(x)


def rounded_linear(linear: nn.Linear | Conv1D, method: str) -> QuantizedLinear:
    """Return a linear of the base with its weights rounded."""
    weight = linear.weight.detach().t() if isinstance(linear, Conv1D) else linear.weight.detach()
    return QuantizedLinear(round_weight(weight, method), linear.bias, weight.dtype)


def _dense(rounded: Rounded, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, rounded.values(x.dtype), bias)


def quantize(module: PreTrainedModel, method: str, tell: Callable[[float], None] = lambda share: None) -> None:
    """Replace every linear of a model, one after another, by a quantized one; `none` changes nothing.

    The output head too: it is a fourth of what a step of a small model reads. In `int4` it keeps 8 bits, for its
    rounding goes straight into the logits. A tied embedding stays as it is, and so do the routers of experts. `tell` is
    told the share that is done.
    """
    if method == "none":
        return
    head = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    found = [
        (name, linear)
        for name, linear in module.named_modules()
        if type(linear) in (nn.Linear, Conv1D) and name.rpartition(".")[2] not in _ROUTERS
    ]
    for number, (name, linear) in enumerate(found, 1):
        chosen = "int8" if linear is head and method == "int4" else method
        module.set_submodule(name, rounded_linear(linear, chosen))
        tell(number / len(found))


def quantized_linears(module: nn.Module) -> list[QuantizedLinear]:
    """Return every quantized linear of a model."""
    return [each for each in module.modules() if isinstance(each, QuantizedLinear)]


def check_quantization(method: str, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse what the device cannot compute.

    Raises:
        ConfigInvalid: fp8 without a card that multiplies it, or int4 on a card without its kernel.
    """
    least = {"int4": (8, 0), "fp8": (8, 9)}.get(method)
    if method == "fp8" and device.type != "cuda":
        raise ConfigInvalid(
            f"fp8 weights are not computed on {device.type}", hint="Use `--quantization int8` or `int4` here"
        )
    if least is None or device.type != "cuda":
        return
    if dtype is not torch.bfloat16:
        raise ConfigInvalid(
            f"{method} weights need bfloat16 on a GPU, not {str(dtype).removeprefix('torch.')}",
            hint="Add `--dtype bfloat16`",
        )
    found = torch.cuda.get_device_capability(device)
    if found < least:
        raise ConfigInvalid(
            f"{method} weights need compute capability {least[0]}.{least[1]}; {device} has {found[0]}.{found[1]}",
            hint="Use `--quantization int8`, which saves memory on every GPU",
        )

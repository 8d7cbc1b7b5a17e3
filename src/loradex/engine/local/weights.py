"""Adapter tensors, from the file as PEFT writes it to what the tables hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

import torch

from loradex.adapters.adapter import Adapter, Extra, LoraLayer, Role
from loradex.adapters.header import Header, read_header
from loradex.engine.local.lora import LoraPair
from loradex.errors import AdapterDamaged, AdapterInvalid, FilesNotFound

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Tensors = Mapping[Role, torch.Tensor]
"""What an adapter brings to one module beside a pair."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors of an adapter by module path, in the engine's dtype, before they have met the base."""

    pairs: Mapping[str, LoraPair]
    extras: Mapping[str, Tensors] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The bytes that the tensors take."""
        extras = sum(tensor.nbytes for own in self.extras.values() for tensor in own.values())
        return extras + sum(pair.a.nbytes + pair.b.nbytes for pair in self.pairs.values())


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: its shape as it will be read, and how to read it, in the dtype that it has there."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


class WeightsFile:
    """The open weights file of an adapter.

    It is read and not mapped: who cuts a mapped file short ends every process that looks at it.
    """

    def __init__(self, file: BinaryIO, header: Header, adapter: Adapter) -> None:
        self._file = file
        self._header = header
        self._adapter = adapter

    def pairs(self) -> Iterator[tuple[LoraLayer, Stored, Stored]]:
        """Give the pairs one by one, laid as in a `LoraPair`.

        To read them raises AdapterDamaged where the file does not hold what it held when it was checked.
        """
        for layer in self._adapter.layers.values():
            stacks = (layer.experts,) if layer.experts else ()
            yield (
                layer,
                Stored((*stacks, layer.rank, layer.in_features), partial(self._a, layer)),
                Stored((*stacks, layer.rank, layer.out_features), partial(self._b, layer)),
            )

    def extras(self) -> Iterator[tuple[Extra, Stored]]:
        """Give what lies beside them, likewise."""
        for extra in self._adapter.extras:
            yield extra, Stored(extra.shape, partial(self._tensor, extra.tensor, extra.shape))

    def _a(self, layer: LoraLayer) -> torch.Tensor:
        a = self._tensor(layer.a, (layer.rank * max(1, layer.experts), layer.in_features))
        return a.view(layer.experts, layer.rank, layer.in_features) if layer.experts else a

    def _b(self, layer: LoraLayer) -> torch.Tensor:
        b = self._tensor(layer.b, (layer.out_features, layer.rank * max(1, layer.experts)))
        if not layer.experts:
            return b.t()
        return b.view(layer.out_features, layer.rank, layer.experts).permute(2, 1, 0)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        info = self._header.tensors.get(name)
        if info is None or info.shape != shape or info.dtype not in _DTYPES:
            raise _damaged(self._adapter, f"`{name}` is gone or has changed")
        content = bytearray(info.end - info.start)
        try:
            self._file.seek(info.start)
            read = self._file.readinto(content)  # type: ignore[attr-defined]
        except OSError as error:
            raise _damaged(self._adapter, error) from error
        if read != len(content):
            raise _damaged(self._adapter, f"it ends within `{name}`")
        dtype = _DTYPES[info.dtype]
        return torch.frombuffer(content, dtype=dtype).view(shape) if content else torch.empty(shape, dtype=dtype)


@contextmanager
def open_weights(adapter: Adapter) -> Iterator[WeightsFile]:
    """Open the weights of an adapter.

    Raises:
        AdapterDamaged: the file is gone, or is not safetensors any more.
    """
    try:
        header = read_header(adapter.weights)
        file = adapter.weights.open("rb")
    except (OSError, FilesNotFound, AdapterInvalid) as error:
        raise _damaged(adapter, error) from error
    with file:
        yield WeightsFile(file, header, adapter)


def read_contents(adapter: Adapter, dtype: torch.dtype, device: torch.device) -> Contents:
    """Return the tensors of an adapter, in the engine's dtype.

    Raises:
        AdapterDamaged: see `WeightsFile`.
    """

    def placed(stored: Stored) -> torch.Tensor:
        return stored.read().to(device).to(dtype).contiguous()

    with open_weights(adapter) as file:
        pairs = {layer.module: LoraPair(placed(a), placed(b), layer.scaling) for layer, a, b in file.pairs()}
        return Contents(pairs, by_module((each.module, each.role, placed(stored)) for each, stored in file.extras()))


def by_module(extras: Iterator[tuple[str, Role, torch.Tensor]]) -> dict[str, Tensors]:
    """Return tensors beside pairs by module and role."""
    found: dict[str, dict[Role, torch.Tensor]] = {}
    for module, role, tensor in extras:
        found.setdefault(module, {})[role] = tensor
    return dict(found)


def _damaged(adapter: Adapter, error: object) -> AdapterDamaged:
    return AdapterDamaged(f"The weights in {adapter.weights} cannot be read: {error}")

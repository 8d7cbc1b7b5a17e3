"""From a LoRARequest to the version that it means: registered when it is first seen, and never loaded twice."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

from loradex.core.adapter import Reference
from loradex.core.mix import Mix, parse_mix
from loradex.errors import InvalidRequest
from loradex.llm.lora_request import LoRARequest
from loradex.service.service import Service

_State = tuple[tuple[str, int, int], ...]


class Deck:
    """The adapters that an `LLM` was given so far.

    Args:
        service: which registers, checks and loads them.
        enabled: whether there may be any.
    """

    def __init__(self, service: Service, *, enabled: bool) -> None:
        self._service = service
        self._enabled = enabled
        self._known: dict[tuple[str, str], tuple[_State, Reference]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def mix(self, request: LoRARequest | str | None) -> Mix[Reference]:
        """Return what answers a request, pinned where it came with a path.

        Raises:
            InvalidRequest: adapters are switched off, or the name is none.
            LoradexError: whatever `Adapters.add` raises: the path leads nowhere, or to what cannot be served.
        """
        if request is None:
            return Mix()
        if not self._enabled:
            raise InvalidRequest(
                f"The prompt asks for the adapter {request!r}, and adapters are switched off",
                hint="Make the `LLM` with `enable_lora=True`, or leave `enable_lora` out",
                param="lora_request",
            )
        if isinstance(request, str):
            return parse_mix(request)
        if not request.lora_path:
            return Mix.of(Reference.parse(request.lora_name))
        async with self._locks[request.lora_name]:
            return Mix.of(await self._version(request))

    async def _version(self, request: LoRARequest) -> Reference:
        """Return the version at a path: what is known of it, as long as its files look as they did."""
        key = (request.lora_name, request.lora_path)
        state = await asyncio.to_thread(_state, Path(request.lora_path).expanduser())
        seen, reference = self._known.get(key, (None, None))
        if reference is None or seen != state or request.load_inplace:
            change = await self._service.adapters.add(
                request.lora_name, request.lora_path, load=False, trusted=True, allow_pickle=True, actor="LLM"
            )
            reference = Reference(request.lora_name, version=change.ref.version)
            self._known[key] = (state, reference)
        return reference


def _state(path: Path) -> _State:
    """Return name, size and time of the files at a path, two folders deep; nothing for what is no path here.

    Training writes again and again to one folder: what lies there may not be what was read.
    """
    files = [path] if path.is_file() else [*path.glob("*"), *path.glob("*/*")]
    stats = [(str(file), file.stat()) for file in sorted(files) if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

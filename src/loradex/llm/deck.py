"""From a LoRARequest to the version that it means."""

from __future__ import annotations

from loradex.core.adapter import Reference
from loradex.core.mix import Mix, parse_mix
from loradex.errors import InvalidRequest
from loradex.llm.lora_request import LoRARequest
from loradex.service.service import Service


class Deck:
    """The adapters that an `LLM` was given so far.

    Args:
        service: which registers, checks and loads them.
        enabled: whether there may be any.
    """

    def __init__(self, service: Service, *, enabled: bool) -> None:
        self._places = service.places
        self._enabled = enabled

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
        name, path = request.lora_name, request.lora_path
        if not path:
            return Mix.of(Reference.parse(name))
        return Mix.of(await self._places.version(name, path, again=request.load_inplace, trusted=True, actor="LLM"))

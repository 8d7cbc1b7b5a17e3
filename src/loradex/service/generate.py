"""One request, readable top to bottom: resolve, fit, lease, stream, record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from loradex.core.adapter import AdapterRef
from loradex.core.event import Event
from loradex.core.prompt import Prompt
from loradex.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client asks.

    Attributes:
        model: name of the base or a reference to an adapter, also as `base:reference`; None and "" mean the base.
        prompt: text, token ids or a conversation.
        sampling: `max_tokens` None takes what the context leaves.
        n: answers to make; with a seed, answer `i` has `seed + i`.
        request_id: for logs and replies; made up when empty.
    """

    model: str | None
    prompt: Prompt
    sampling: Sampling
    n: int = 1
    request_id: str = ""


class Answer:
    """An answer under way. It holds a lease until `events` has ended or `aclose` was called: always do one of them.

    Attributes:
        request_id: as asked, or made up.
        model: the name that answers, as asked: `medical@prod`; for the base its served name.
        ref: the pinned version that answers; None for the base.
        prompt_tokens: the prompt's token ids.
    """

    request_id: str
    model: str
    ref: AdapterRef | None
    prompt_tokens: tuple[int, ...]

    def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield events of all `n` answers, each with the index of its answer, as they come. Call it once.

        Raises:
            EngineFailed: the engine broke on this request.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """Cancel what still runs and give the lease back. Does nothing the second time; safe from any task."""
        raise NotImplementedError

"""What a client asks."""

from __future__ import annotations

from dataclasses import dataclass, field

from loradex.core.adapter import Reference
from loradex.core.defaults import changed
from loradex.core.mix import Mix
from loradex.core.prompt import Prompt
from loradex.core.sampling import Sampling
from loradex.errors import InvalidRequest

MAX_N = 128


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client asks.

    Attributes:
        model: name of the base, a reference to an adapter or a mix of several, also with `base:` before it; None and ""
            mean the base.
        prompt: text, token ids or a conversation.
        sampling: `max_tokens` None takes what the context leaves.
        n: answers to make, 1 to 128; with a seed, answer `i` has `seed + i`.
        priority: lower is served earlier, of those who wait.
        request_id: for logs and replies; made up when empty. It need not be unique.
        key: who asks: while a canary runs, requests with one key are answered by one version. Empty: any.
        adapters: the mix, where `model` means the base.
        given: the fields of `sampling` that the client gave, over which no default of an adapter wins; None for those
            that are not as `Sampling` begins.
        reference: an answer that is put behind the prompt, so that the end tells how likely its tokens were.
        embedded: whether the end has the prompt's vector.
    """

    model: str | None
    prompt: Prompt
    sampling: Sampling
    n: int = 1
    request_id: str = ""
    priority: int = 0
    key: str = ""
    adapters: Mix[Reference] = field(default_factory=Mix)
    given: frozenset[str] | None = None
    reference: str = ""
    embedded: bool = False

    def __post_init__(self) -> None:
        """Check `n`.

        Raises:
            InvalidRequest: it is out of range.
        """
        if not 1 <= self.n <= MAX_N:
            raise InvalidRequest(f"n is {self.n}; it must be at least 1 and at most {MAX_N}", param="n")

    @property
    def fixed(self) -> frozenset[str]:
        """The fields of `sampling` over which no default wins."""
        return changed(self.sampling) if self.given is None else self.given

"""When an answer ends, and how much of its text may be shown before it is known."""

from __future__ import annotations

from dataclasses import dataclass

from loradex.core.event import FinishReason
from loradex.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class End:
    """Why an answer ended; see `loradex.core.event.Finished`."""

    reason: FinishReason
    stop_reason: int | str | None = None


def end_after_token(
    token: int, output_len: int, total_len: int, sampling: Sampling, eos: tuple[int, ...], max_len: int
) -> End | None:
    """Say whether `token`, the last of `output_len` sampled ones and of `total_len` in all, ends the answer.

    `eos` are the model's end tokens, the main one first. Before `min_tokens` no end token can be sampled, so none is
    looked for here.
    """
    if not sampling.ignore_eos and token in eos:
        return End("stop", None if token == eos[0] else token)
    if token in sampling.stop_token_ids:
        return End("stop", token)
    if total_len >= max_len or (sampling.max_tokens is not None and output_len >= sampling.max_tokens):
        return End("length")
    return None


class StopText:
    """Text of one answer on its way out: looks for stop strings and holds back what may become one."""

    def __init__(self, sampling: Sampling) -> None:
        self._stops = sampling.stop
        self._include = sampling.include_stop
        self._hold = max((len(stop) for stop in self._stops), default=1) - 1
        self._text = ""
        self._shown = 0
        self._safe = 0

    def push(self, piece: str, *, look: bool = True) -> tuple[str, str | None]:
        """Add `piece`; return the text that may be shown now, and the stop string that was met, if any.

        `look` is False before `min_tokens`: a stop string that is complete by then is part of the answer.
        """
        start = max(self._safe, len(self._text) - self._hold)
        self._text += piece
        if not look:
            self._safe = len(self._text)
            return self._show(len(self._text)), None
        if found := self._first(start):
            at, stop = found
            # Characters of the stop string are only ever held back, so `at` is never before what was shown.
            return self._show(at + len(stop) if self._include else at), stop
        return self._show(max(self._shown, len(self._text) - self._hold)), None

    def flush(self) -> str:
        """Return the text held back, when the answer ended for another reason."""
        return self._show(len(self._text))

    def _first(self, start: int) -> tuple[int, str] | None:
        """Return where the earliest stop string begins, and which; of two at one place the longer."""
        hits = [(at, -len(stop), stop) for stop in self._stops if (at := self._text.find(stop, start)) >= 0]
        if not hits:
            return None
        at, _, stop = min(hits)
        return at, stop

    def _show(self, until: int) -> str:
        text = self._text[self._shown : until]
        self._shown = max(self._shown, until)
        return text

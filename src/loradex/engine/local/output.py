"""From chosen tokens to the pieces of an answer."""

from __future__ import annotations

import torch

from loradex.core.event import Delta, TokenLogprob
from loradex.engine.local.ending import End, StopText, end_after_token
from loradex.engine.local.reading import Reading
from loradex.engine.local.sampler import Choice
from loradex.engine.local.sequence import Sequence
from loradex.engine.local.text import Detokenizer, Text


class Output:
    """What one answer has said so far: its text, stop strings, and whether it is over."""

    def __init__(self, text: Text, sequence: Sequence, eos: tuple[int, ...], max_len: int) -> None:
        self._text = text
        self._eos = eos
        self._max_len = max_len
        sampling = sequence.sampling
        self._detokenizer = Detokenizer(text, sequence.tokens, skip_special_tokens=sampling.skip_special_tokens)
        self._stops = StopText(sampling)
        self._scored: list[TokenLogprob] = []
        self._hidden: torch.Tensor | None = None
        self._prompt_len = sequence.prompt_len

    def push(self, sequence: Sequence, choice: Choice) -> tuple[Delta, End | None]:
        """Take the token just appended to `sequence`; return what to show, and the end if this is it.

        Raises:
            EngineFailed: the form that the answer must have cannot be followed any further.
        """
        sampling = sequence.sampling
        end = end_after_token(
            choice.token, sequence.output_len, len(sequence.tokens), sampling, self._eos, self._max_len
        )
        ended_by_token = end is not None and end.reason == "stop"
        if sequence.constraint is not None:
            sequence.constraint.take(choice.token)
            if sequence.constraint.complete and not ended_by_token:
                end = End("stop")
        # The token that ends an answer is not part of its text, unless it was asked for.
        silent = ended_by_token and not sampling.include_stop
        piece = "" if silent else self._detokenizer.push(choice.token)
        shown, stop = self._stops.push(piece, look=sequence.output_len >= sampling.min_tokens)
        if stop is not None and not ended_by_token:
            end = End("stop", stop)
        elif end is not None:
            shown += self._stops.flush()
        scored, self._scored = tuple(self._scored), []  # all of the prompt is read by the first piece
        logprobs = () if choice.logprob is None else (self._told(choice.token, choice.logprob, choice.top),)
        return Delta(shown, (choice.token,), logprobs, sequence.mix, scored), end

    def read(self, reading: Reading) -> None:
        """Take what a step tells of the prompt."""
        self._scored += (self._told(each.token, each.logprob, each.top, each.rank) for each in reading.scores)
        if reading.hidden is not None:
            self._hidden = reading.hidden if self._hidden is None else self._hidden + reading.hidden

    @property
    def embedding(self) -> tuple[float, ...]:
        """The mean of the prompt's hidden states, once all of them were read; empty where they were not."""
        return () if self._hidden is None else tuple((self._hidden / self._prompt_len).tolist())

    def _told(self, token: int, logprob: float, top: tuple[tuple[int, float], ...], rank: int = 0) -> TokenLogprob:
        alternatives = tuple(TokenLogprob(other, self._text.piece(other), value) for other, value in top)
        return TokenLogprob(token, self._text.piece(token), logprob, alternatives, rank)

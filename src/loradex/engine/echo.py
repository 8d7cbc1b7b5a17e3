"""One request of the fake engine: what it still has to say, what it has said, and when it ends."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Sequence

from loradex.core.event import Delta, Finished, FinishReason, TokenLogprob
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling

EOS = 256
"""The token that ends an answer; those below it are the bytes of UTF-8."""


class Echo:
    """One request under way: what it still has to say, and what it has said."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.mix = request.mix
        self.admitted = asyncio.Event()
        self._echo = bytes(token for token in request.tokens if token != EOS)
        self._script = self._label() + self._echo
        self._said = 0
        self._text = EchoText(request.sampling)

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.request.tokens) + self._said

    def switch(self, old: str, new: str) -> None:
        """Go on with `new` in the place of `old`, and say so."""
        self.mix = self.mix.map(lambda digest: new if digest == old else digest)
        left = self._script[max(0, len(self._script) - len(self._echo)) :]  # without what is left of a label
        started = self._said > 0
        self._script = (b"|" if started else b"") + self._label() + left

    def step(self) -> tuple[Delta, tuple[FinishReason, int | str | None] | None]:
        """Say one token. Returns it, with reason and stop reason where it is the last."""
        sampling = self.request.sampling
        token = self._next_token()
        self._said += 1
        early = self._said <= sampling.min_tokens
        is_stop = token in sampling.stop_token_ids
        shown = token != EOS and (not is_stop or sampling.include_stop)
        text, stop = self._text.push(token if shown else None, look=not early)
        if token == EOS and not sampling.skip_special_tokens:
            text += "<eos>"
        end: tuple[FinishReason, int | str | None] | None = None
        if stop is not None:
            end = ("stop", stop)
        elif is_stop:
            end = ("stop", token)
        elif token == EOS:
            end = ("stop", None)
        elif sampling.max_tokens is not None and self._said >= sampling.max_tokens:
            end = ("length", None)
        if end is not None and stop is None:
            text = self._text.flush() + text
        logprobs = () if sampling.logprobs is None else (_logprob(token, sampling.logprobs),)
        scored = tuple(self._likely(at) for at in self.request.scored) if self._said == 1 else ()
        return Delta(text, (token,), logprobs, self.mix, scored), end

    def finished(self, reason: FinishReason, stop_reason: int | str | None, queued: float) -> Finished:
        """Return the end of this answer."""
        return Finished(
            reason,
            stop_reason,
            len(self.request.tokens),
            self._said,
            0,
            self.mix,
            queued,
            embedding=_counted(self.request.tokens) if self.request.embedded else (),
        )

    def _likely(self, at: int) -> TokenLogprob:
        """Return a made-up log-probability: likely is what stands so in the label of its weights."""
        before, token = self.request.tokens[at - 1 : at + 1]
        known = EOS not in (before, token) and bytes((before, token)) in self._label()
        likely = -0.1 if known else -1.0
        count = self.request.sampling.prompt_logprobs
        if count is None:
            return TokenLogprob(token, _alone(token), likely)
        return TokenLogprob(token, _alone(token), likely, _logprob(token, count).top, rank=1)

    def _label(self) -> bytes:
        return f"{self.mix.map(lambda digest: digest[:8])}: ".encode()

    def _next_token(self) -> int:
        """Take the next byte; at the end stop, or begin again where the answer may not end yet."""
        sampling = self.request.sampling
        early = self._said < sampling.min_tokens
        if not self._script:
            if not early and not sampling.ignore_eos:
                return EOS
            self._script = b"\n" + self._label() + self._echo
        if early and self._script[0] in sampling.stop_token_ids:
            allowed = (token for token in range(ord(" "), EOS) if token not in sampling.stop_token_ids)
            self._script = bytes((next(allowed),)) + self._script[1:]
        token, self._script = self._script[0], self._script[1:]
        return token


class EchoText:
    """Bytes to text: holds back half a character, and what may become a stop string."""

    def __init__(self, sampling: Sampling) -> None:
        self._stops = sampling.stop
        self._include = sampling.include_stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, token: int | None, *, look: bool) -> tuple[str, str | None]:
        """Add a token that is part of the text; return what may be shown, and the stop string that is complete."""
        if token is not None:
            self._held += self._decoder.decode(bytes((token,)))
        if not look:
            return self._show(len(self._held)), None
        found = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if found:
            at, stop = min(found)
            return self._show(at + len(stop) if self._include else at), stop
        return self._show(len(self._held) - self._open()), None

    def flush(self) -> str:
        """Return all that was held back."""
        self._held += self._decoder.decode(b"", final=True)
        return self._show(len(self._held))

    def _open(self) -> int:
        """Return how many characters at the end may be the start of a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _show(self, until: int) -> str:
        text, self._held = self._held[:until], self._held[until:]
        return text


def _logprob(token: int, count: int) -> TokenLogprob:
    """Return made-up log-probabilities: the chosen token first, then its neighbours."""
    top = tuple(TokenLogprob((token + i) % (EOS + 1), _alone((token + i) % (EOS + 1)), -0.1 - i) for i in range(count))
    return TokenLogprob(token, _alone(token), -0.1, top)


def _counted(tokens: Sequence[int]) -> tuple[float, ...]:
    """Return a made-up vector: how often each byte occurs."""
    return tuple(tokens.count(token) / len(tokens) for token in range(EOS + 1))


def _alone(token: int) -> str:
    return chr(token) if token < 0x80 else ""

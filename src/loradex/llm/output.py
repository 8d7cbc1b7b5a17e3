"""What `LLM` gives back: the attributes that outputs have in vLLM and TensorRT-LLM."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from loradex.core.event import Event, Finished, FinishReason, TokenLogprob
from loradex.llm.lora_request import LoRARequest


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural-log probability of a token, its rank among the likeliest (1 is the first), and its text.

    The rank is None for a token of the answer that is not among the alternatives that were asked for.
    """

    logprob: float
    rank: int | None
    decoded_token: str


@dataclass(slots=True)
class CompletionOutput:
    """One answer, as far as it has come.

    Attributes:
        index: which of `n`.
        text, token_ids: of the answer alone.
        cumulative_logprob: sum over the tokens; None where no log-probabilities were asked for.
        logprobs: for each token the alternatives and itself, by token id; None where they were not asked for.
        finish_reason: `stop`, `length` or `abort`; None while it runs.
        stop_reason: the stop string or stop token id; None for others.
        text_diff, token_ids_diff: what came since the piece before, of a stream.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    text_diff: str = ""
    token_ids_diff: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)

    def finished(self) -> bool:
        """Return whether it has ended."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestMetrics:
    """When things happened, in seconds of `time.time`; the wait in seconds."""

    arrival_time: float
    first_token_time: float | None = None
    finished_time: float | None = None
    time_in_queue: float | None = None


@dataclass(slots=True)
class RequestOutput:
    """The answers to one prompt.

    Attributes:
        request_id: of this `LLM`, counted from 0.
        prompt: the text; of a conversation, as it was rendered; None where token ids were given.
        prompt_token_ids: what the model read.
        outputs: `n` answers.
        finished: whether all of them have ended.
        lora_request: as it was given.
        adapter: who answered: `sql@2`, a mix of several, or `base`.
        num_cached_tokens: tokens of the prompt that were found in the prefix cache, once an answer has ended.
        metrics: when things happened.
        prompt_logprobs: for each token of the prompt itself and the likeliest, by token id, as in `logprobs`; None for
            the first, of which nothing is known. None where they were not asked for.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    lora_request: LoRARequest | str | None
    adapter: str
    metrics: RequestMetrics
    finished: bool = False
    num_cached_tokens: int | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None

    def add(self, index: int, event: Event) -> None:
        """Take in what the engine said of answer `index`."""
        output = self.outputs[index]
        if isinstance(event, Finished):
            output.finish_reason, output.stop_reason = event.reason, event.stop_reason
            self.num_cached_tokens = event.cached_tokens
            self.metrics.finished_time = time.time()
            self.metrics.time_in_queue = event.queue_seconds
            self.finished = all(each.finished() for each in self.outputs)
            return
        if self.metrics.first_token_time is None:
            self.metrics.first_token_time = time.time()
        if self.prompt_logprobs is not None and index == 0:
            self.prompt_logprobs.extend(map(_alternatives, event.prompt_logprobs))
        output.text += event.text
        output.token_ids.extend(event.token_ids)
        if event.logprobs:
            output.logprobs = output.logprobs or []
            output.logprobs.extend(map(_alternatives, event.logprobs))
            said = sum(each.logprob for each in event.logprobs)
            output.cumulative_logprob = said + (output.cumulative_logprob or 0.0)

    def since(self, before: RequestOutput | None) -> RequestOutput:
        """Return a copy as it is now, whose diffs say what came after an earlier copy."""
        outputs = []
        for now in self.outputs:
            old = before.outputs[now.index] if before is not None else CompletionOutput(now.index)
            outputs.append(
                replace(
                    now,
                    token_ids=now.token_ids.copy(),
                    logprobs=now.logprobs and now.logprobs.copy(),
                    text_diff=now.text[len(old.text) :],
                    token_ids_diff=now.token_ids[len(old.token_ids) :],
                )
            )
        return replace(self, outputs=outputs, metrics=replace(self.metrics))


def _alternatives(token: TokenLogprob) -> dict[int, Logprob]:
    ranked = {top.token_id: Logprob(top.logprob, rank, top.text) for rank, top in enumerate(token.top, 1)}
    ranked.setdefault(token.token_id, Logprob(token.logprob, token.rank or None, token.text))
    return ranked

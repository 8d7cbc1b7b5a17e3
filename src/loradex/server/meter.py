"""Token counts inside a stream."""

from __future__ import annotations

from typing import Any

from loradex.core.event import Delta, Event
from loradex.server.answers import Answers
from loradex.server.wire.sampling import SamplingFields


class Meter:
    """Counts a stream's tokens, and gives each chunk the `usage` that the client asked for."""

    def __init__(self, answers: Answers, body: SamplingFields) -> None:
        self._answers = answers
        self._counts = [0] * len(answers)
        options = body.stream_options
        self._wanted = bool(options and options.include_usage)
        self._always = bool(self._wanted and options and options.continuous_usage_stats)

    def count(self, index: int, event: Event) -> None:
        """Take note of an event of answer `index`."""
        if isinstance(event, Delta):
            self._counts[index] += len(event.token_ids)

    def chunk(self, index: int) -> dict[str, Any]:
        """Return what a chunk of answer `index` carries: null until the end, unless all are to carry the counts."""
        if not self._wanted:
            return {}
        if not self._always:
            return {"usage": None}
        prompt, completion = self._answers.prompt_tokens(index), self._counts[index]
        return {
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        }

    def end(self) -> list[dict[str, Any]]:
        """Return what follows the last chunk: the counts of everything, where they were asked for."""
        return [{"choices": [], "usage": self._answers.usage().model_dump()}] if self._wanted else []

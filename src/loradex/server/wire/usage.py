"""Token counts of a reply."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from loradex.core.event import Finished


class PromptDetails(BaseModel):
    """What is known of the prompt's tokens."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Tokens read and written for one reply; each prompt counts once, whatever `n` is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None

    @classmethod
    def of(cls, prompt_tokens: int, ends: Iterable[Finished], first: Iterable[Finished]) -> Usage:
        """Return the counts; `first` holds the end of each prompt's first answer, which filled the prefix cache."""
        completion = sum(end.completion_tokens for end in ends)
        cached = sum(end.cached_tokens for end in first)
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion,
            total_tokens=prompt_tokens + completion,
            prompt_tokens_details=PromptDetails(cached_tokens=cached),
        )

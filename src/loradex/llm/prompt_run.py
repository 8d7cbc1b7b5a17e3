"""One prompt, from what was asked to its output; on the service's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loradex.core.adapter import Reference
from loradex.core.mix import Mix
from loradex.core.prompt import ChatPrompt, Prompt
from loradex.llm.deck import Deck
from loradex.llm.lora_request import LoRARequest
from loradex.llm.output import CompletionOutput, RequestMetrics, RequestOutput
from loradex.llm.sampling_params import SamplingParams
from loradex.service.answer import Answer
from loradex.service.ask import Ask
from loradex.service.service import Service

Told = Callable[[RequestOutput], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with all that goes with it. `seed` counts where the parameters have none."""

    number: int
    prompt: Prompt
    params: SamplingParams
    lora_request: LoRARequest | str | None
    priority: int = 0
    seed: int | None = None
    arrived: float = field(default_factory=time.time)


class Runs:
    """Answers prompts: one, or many in one batch."""

    def __init__(self, service: Service, deck: Deck) -> None:
        self._service = service
        self._deck = deck

    async def one(self, asked: Asked, piece: Told | None = None) -> RequestOutput:
        """Answer one prompt; `piece` is told what is there after each event.

        Raises:
            LoradexError: whatever `Service.generate` and its answer raise, and `Deck.mix`.
        """
        return await self._answer(asked, await self._deck.mix(asked.lora_request), piece)

    async def all(self, asked: Sequence[Asked], ended: Told) -> list[RequestOutput]:
        """Answer all, in one batch; return the outputs in the order of the prompts.

        Raises:
            LoradexError: about one of them, with a note that says which; then none is answered.
        """
        # First: a path that leads nowhere shows before anything is computed.
        mixes = {each: await self._deck.mix(each) for each in dict.fromkeys(each.lora_request for each in asked)}
        tasks = [
            asyncio.create_task(self._numbered(each, mixes[each.lora_request], len(asked), ended)) for each in asked
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _numbered(self, asked: Asked, mix: Mix[Reference], count: int, ended: Told) -> RequestOutput:
        try:
            output = await self._answer(asked, mix)
        except Exception as error:  # it goes on, with a note
            error.add_note(f"In prompt {asked.number} of this `LLM`, one of {count} that were given together")
            raise
        ended(output)
        return output

    async def _answer(self, asked: Asked, mix: Mix[Reference], piece: Told | None = None) -> RequestOutput:
        sampling = asked.params.sampling(asked.seed)
        answers, given = asked.params.n, asked.params.given
        ask = Ask(None, asked.prompt, sampling, answers, priority=asked.priority, adapters=mix, given=given)
        answer = await self._service.generate(ask)
        output = self._begun(asked, answer)
        try:
            async for index, event in answer.events():
                output.add(index, event)
                if piece is not None:
                    piece(output)
        finally:
            await answer.aclose()
        output.adapter = ", ".join(map(str, answer.spoken))
        return output

    def _begun(self, asked: Asked, answer: Answer) -> RequestOutput:
        prompt = asked.prompt if isinstance(asked.prompt, str) else None
        if isinstance(asked.prompt, ChatPrompt):
            prompt = answer.prompt
        return RequestOutput(
            request_id=str(asked.number),
            prompt=prompt,
            prompt_token_ids=list(answer.prompt_tokens),
            outputs=[CompletionOutput(index) for index in range(asked.params.n)],
            lora_request=asked.lora_request,
            adapter=str(answer.mix),
            metrics=RequestMetrics(asked.arrived),
            prompt_logprobs=None if asked.params.prompt_logprobs is None else [None],
        )

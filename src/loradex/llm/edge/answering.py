"""The requests of a file, answered by one service: as many at a time as the file's batches have, adapters mixed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loradex.core.prompt import ChatPrompt, Prompt
from loradex.errors import LoradexError
from loradex.llm.deck import Deck
from loradex.llm.edge.input_file import InputFile
from loradex.llm.edge.request import Refused, Request
from loradex.llm.lora_request import LoRARequest
from loradex.llm.output import RequestOutput
from loradex.llm.prompt_run import Asked, Runs
from loradex.service.service import Service


@dataclass(frozen=True, slots=True)
class Answered:
    """A request with its answer, or with what was wrong. `system` is the system message as it was rendered."""

    request: Request | Refused
    output: RequestOutput | None = None
    error: LoradexError | None = None
    system: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What a file's run gave: its answers in order, its seconds, and the engine's steps with their seconds."""

    answers: tuple[Answered, ...]
    seconds: float
    steps: int
    step_seconds: float


async def check_adapters(deck: Deck, adapters: Mapping[str, str]) -> None:
    """Register adapters before anything is asked.

    Raises:
        LoradexError: one of them cannot be found or served.
    """
    for name, path in adapters.items():
        await deck.mix(LoRARequest(name, lora_path=path))


async def answer_file(
    service: Service, deck: Deck, file: InputFile, *, seed: int | None, tell: Callable[[float], None]
) -> Run:
    """Answer every request that can be asked; one that fails leaves the others alone.

    Args:
        service: running.
        deck: of that service.
        file: whose `batch_size` requests are computed together.
        seed: makes the answers reproducible; request `i` has `seed + i`.
        tell: told the share that is done.
    """
    runs, places = Runs(service, deck), asyncio.Semaphore(file.batch_size)
    done = 0

    async def one(number: int, request: Request | Refused) -> Answered:
        nonlocal done
        async with places:
            answered = await _answered(service, runs, file, number, request, seed)
        done += 1
        tell(done / len(file.requests))
        return answered

    before, began = service.engine.stats(), time.perf_counter()
    answers = await asyncio.gather(*(one(number, each) for number, each in enumerate(file.requests)))
    after = service.engine.stats()
    return Run(
        tuple(answers),
        time.perf_counter() - began,
        after.steps - before.steps,
        after.step_seconds - before.step_seconds,
    )


async def _answered(
    service: Service, runs: Runs, file: InputFile, number: int, request: Request | Refused, seed: int | None
) -> Answered:
    if isinstance(request, Refused):
        return Answered(request, error=request.error)
    own = None if seed is None else seed + number
    try:
        asked = Asked(number, request.prompt, request.params, _adapter(request, file), seed=own)
        output = await runs.one(asked)
    except LoradexError as error:
        return Answered(request, error=error)
    return Answered(request, output, system=_system(service, request.prompt))


def _adapter(request: Request, file: InputFile) -> LoRARequest | None:
    if request.adapter is None:
        return None
    return LoRARequest(request.adapter, lora_path=file.adapters[request.adapter])


def _system(service: Service, prompt: Prompt) -> str:
    """Return the system message as the chat template renders it alone; nothing where it does not."""
    if not isinstance(prompt, ChatPrompt):
        return ""
    turns = tuple(turn for turn in prompt.messages if turn.role == "system")
    if not turns:
        return ""
    try:
        alone = ChatPrompt(turns, add_generation_prompt=False, template_kwargs=prompt.template_kwargs)
        return service.engine.decode(service.engine.encode(alone))
    except LoradexError:
        return ""

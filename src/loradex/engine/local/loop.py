"""The one thread that owns scheduler and runner. Others talk to it by messages."""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from loradex.core.event import Event, Finished
from loradex.engine.base import EngineStats, Resident
from loradex.engine.local.change import Weights
from loradex.engine.local.ending import End
from loradex.engine.local.output import Output
from loradex.engine.local.plan import StepPlan
from loradex.engine.local.runner import Runner
from loradex.engine.local.sampler import Choice
from loradex.engine.local.scheduler import Scheduler
from loradex.engine.local.sequence import Sequence
from loradex.errors import Conflict, EngineFailed, EngineStopped, LoradexError

log = logging.getLogger(__name__)

TURN_SECONDS = 0.0005
"""How long another thread may keep the interpreter's lock when the engine's wants it back, as after every product of a
step. Python's 5 ms are a tenth of a step of one row, for each time that loading or writing answers gets in between."""

Message = Event | LoradexError
Post = Callable[[list[tuple[str, Message]]], None]
"""Takes what one step said, as (sequence id, message) pairs; called on the engine's thread."""


@dataclass(slots=True)
class _Job:
    """A sequence in the loop, with its way to text and the time it came."""

    sequence: Sequence
    output: Output
    arrived: float
    began: float | None = None


@dataclass(slots=True)
class Snapshot:
    """What others may read without asking the thread; replaced whole, never changed.

    `places` has slot and bytes of each resident adapter; `running` and `waiting` count the sequences on them.
    """

    stats: EngineStats
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    running: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)

    @property
    def resident(self) -> tuple[Resident, ...]:
        """What is resident, by slot. Made when it is asked for: thousands may be, and steps are many."""
        return tuple(
            Resident(digest, slot, size, self.running.get(digest, 0), self.waiting.get(digest, 0))
            for digest, (slot, size) in sorted(self.places.items(), key=lambda item: item[1])
        )


@dataclass(slots=True)
class _Counters:
    steps: int = 0
    step_seconds: float = 0.0


class Loop:
    """Runs steps while there is work, and what it is told between them."""

    def __init__(self, scheduler: Scheduler, runner: Runner, post: Post) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._post = post
        self._inbox: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any] | None]] = queue.SimpleQueue()
        self._jobs: dict[str, _Job] = {}
        self._count = _Counters()
        self._places: Mapping[str, tuple[int, int]] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="loradex-engine", daemon=True)
        self.snapshot = Snapshot(self._stats())

    def start(self) -> None:
        """Start the thread. From now on all threads of the process hand the interpreter's lock on sooner."""
        sys.setswitchinterval(min(TURN_SECONDS, sys.getswitchinterval()))
        self._thread.start()

    def stop(self) -> None:
        """End the thread; whatever still runs gets `EngineStopped`. Blocks until it has ended."""
        self._inbox.put((self._stop, None))
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread still takes messages."""
        return self._thread.is_alive()

    def submit(self, sequence: Sequence, output: Output) -> None:
        """Add a sequence. Its messages go to `post`."""
        job = _Job(sequence, output, time.monotonic())
        self._inbox.put((lambda: self._add(job), None))

    def cancel(self, sequence_id: str) -> None:
        """Drop a sequence at the next step boundary; a finished or unknown one is no error."""
        self._inbox.put((lambda: self._drop(sequence_id), None))

    def install(self, digest: str, weights: Weights) -> Future[int]:
        """Make weights usable at the next step; the future holds the slot."""

        def install() -> int:
            slot = self._runner.install(digest, weights)
            self._places = {**self._places, digest: (slot, weights.nbytes)}
            if weights.invocation:
                self._scheduler.invocations[digest] = weights.invocation
            return slot

        return self._ask(install)

    def remove(self, digest: str) -> Future[None]:
        """Free weights. The future fails with `Conflict` while a sequence uses them."""

        def remove() -> None:
            if digest not in self._runner.slots:
                return
            if busy := sum(digest in job.sequence.mix for job in self._jobs.values()):
                raise Conflict(f"{busy} requests still use the adapter {digest[:12]}", hint="Wait until they end")
            self._runner.remove(digest)
            self._scheduler.invocations.pop(digest, None)
            self._places = {known: place for known, place in self._places.items() if known != digest}

        return self._ask(remove)

    def switch(self, old: str, new: str, requests: Collection[str] | None) -> Future[int]:
        """Put one adapter in the place of another; the future holds in how many sequences."""
        return self._ask(lambda: self._scheduler.switch(old, new, requests))

    def _ask(self, act: Callable[[], Any]) -> Future[Any]:
        answer: Future[Any] = Future()
        self._inbox.put((act, answer))
        return answer

    def _run(self) -> None:
        reason: LoradexError = EngineStopped("The engine was stopped")
        try:
            while not self._stopping:
                if self._scheduler.idle:
                    self._runner.pause()
                self._receive(block=self._scheduler.idle)
                if not self._stopping and not self._scheduler.idle:
                    self._tell(self._step())
        except Exception as error:
            # Not a step but the loop itself: nobody may wait for an answer that will never come.
            log.exception("the engine's loop failed")
            reason = EngineFailed(f"The engine failed: {error}", hint="Restart the server, and report the message")
        self._dismiss(reason)
        self._take_rest()
        self._dismiss(reason)

    def _dismiss(self, reason: LoradexError) -> None:
        """Tell every request why it ends, and forget it: what the scheduler holds may be broken."""
        self._post([(key, reason) for key in self._jobs])
        self._jobs.clear()

    def _receive(self, *, block: bool) -> None:
        """Do what the inbox asks for; wait for the first message if there is nothing else to do."""
        while True:
            try:
                act, answer = self._inbox.get(block=block)
            except queue.Empty:
                return
            block = False
            self._carry_out(act, answer)

    def _carry_out(self, act: Callable[[], Any], answer: Future[Any] | None) -> None:
        """Do what a message asks for; whoever waits for the answer finds the snapshot up to date."""
        if answer is not None and not answer.set_running_or_notify_cancel():
            return  # nobody waits any more, so it is as if it had not been asked
        try:
            result = act()
        except LoradexError as error:
            if answer is None:
                raise
            answer.set_exception(error)
            return
        except Exception as error:  # the loop ends with it, and whoever waits for this must not wait for ever
            if answer is not None:
                answer.set_exception(EngineFailed(f"The engine failed: {error}"))
            raise
        self._refresh()
        if answer is not None:
            answer.set_result(result)

    def _take_rest(self) -> None:
        """Refuse what still lies in the inbox of a loop that has ended, and take the requests in, to be told so."""
        while True:
            try:
                act, answer = self._inbox.get(block=False)
            except queue.Empty:
                return
            if answer is None:
                act()
            elif answer.set_running_or_notify_cancel():
                answer.set_exception(EngineStopped("The engine was stopped"))

    def _step(self) -> list[tuple[str, Message]]:
        """Compute one plan; return what there is to say."""
        began = time.monotonic()
        plan = self._scheduler.plan()
        if self.snapshot.stats.waiting != len(self._scheduler.waiting):
            self._refresh()  # a long step must not look like a queue: what it computes waits no more
        for chunk in plan.chunks:
            job = self._jobs[chunk.sequence.id]
            job.began = job.began or began
        try:
            choices, readings = self._runner.execute(plan)
        except Exception as error:  # an edge: the answers of this step end, the engine goes on
            log.exception("a step failed")
            return self._fail(plan, error)
        for key, reading in readings.items():
            self._jobs[key].output.read(reading)
        self._scheduler.advance(plan, {key: choice.token for key, choice in choices.items()})
        messages = [message for key, choice in choices.items() for message in self._say(self._jobs[key], choice)]
        self._count.steps += 1
        self._count.step_seconds += time.monotonic() - began
        return messages

    def _tell(self, messages: list[tuple[str, Message]]) -> None:
        """Pass messages on. Whoever hears that a request ended finds it gone from the snapshot."""
        self._refresh()
        self._post(messages)

    def _refresh(self) -> None:
        scheduler = self._scheduler
        self.snapshot = Snapshot(self._stats(), self._places, _uses(scheduler.running), _uses(scheduler.waiting))

    def _say(self, job: _Job, choice: Choice) -> list[tuple[str, Message]]:
        """Turn a chosen token into messages, and let a finished sequence go."""
        key = job.sequence.id
        if choice.broken:
            self._drop(key)
            return [(key, EngineFailed("The model's output was not a number; the adapter's weights may be damaged"))]
        try:
            delta, end = job.output.push(job.sequence, choice)
        except EngineFailed as error:
            self._drop(key)
            return [(key, error)]
        messages: list[tuple[str, Message]] = [(key, delta)]
        if end is not None:
            self._drop(key)
            messages.append((key, self._finished(job, end)))
        return messages

    def _finished(self, job: _Job, end: End) -> Finished:
        sequence = job.sequence
        return Finished(
            end.reason,
            end.stop_reason,
            prompt_tokens=sequence.prompt_len,
            completion_tokens=sequence.output_len,
            cached_tokens=sequence.cached or 0,
            mix=sequence.mix,
            queue_seconds=(job.began or job.arrived) - job.arrived,
            embedding=job.output.embedding,
        )

    def _fail(self, plan: StepPlan, error: Exception) -> list[tuple[str, Message]]:
        """End the sequences of a step that broke; the others go on."""
        failed = [chunk.sequence.id for chunk in plan.chunks]
        for key in failed:
            self._drop(key)
        return [(key, EngineFailed(f"A step of the engine failed: {error}")) for key in failed]

    def _add(self, job: _Job) -> None:
        self._jobs[job.sequence.id] = job
        self._scheduler.add(job.sequence)

    def _drop(self, key: str) -> None:
        job = self._jobs.pop(key, None)
        if job is not None:
            self._scheduler.remove(job.sequence)

    def _stop(self) -> None:
        self._stopping = True

    def _stats(self) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            blocks_total=scheduler.blocks.count,
            blocks_free=scheduler.blocks.available,
            block_size=scheduler.blocks.size,
            preemptions=scheduler.preemptions,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            steps=self._count.steps,
            step_seconds=self._count.step_seconds,
        )


def _uses(sequences: Iterable[Sequence]) -> Mapping[str, int]:
    return Counter(digest for sequence in sequences for digest in sequence.mix.adapters)

"""Wires registry and engine together: the Python API that server and command line share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace as with_values
from pathlib import Path

from loradex.adapters.adapter import Adapter
from loradex.adapters.rest import SHARE
from loradex.core.adapter import AUTO, AdapterRef
from loradex.core.model import ModelInfo
from loradex.engine.base import Engine, Progress
from loradex.errors import EngineStopped, ModelNotFound
from loradex.registry.registry import Registry
from loradex.registry.sources.access import Access
from loradex.service.adapters import Adapters
from loradex.service.aftermath import Aftermath
from loradex.service.budget import Budget
from loradex.service.compare import Comparison
from loradex.service.embedding import Embedder
from loradex.service.generate import Answer, Ask, Generator
from loradex.service.intake import MAX_ADAPTER_SIZE, Intake
from loradex.service.jobs import Jobs
from loradex.service.journal import FOLDER, Journal
from loradex.service.lookup import Lookup, Resolver
from loradex.service.metrics import Metrics
from loradex.service.mixing import Mixing
from loradex.service.names import Names
from loradex.service.overview import Overview
from loradex.service.pins import Pins
from loradex.service.places import Places
from loradex.service.rendering import Rendering
from loradex.service.replace import Replacer
from loradex.service.residency import Residency
from loradex.service.residents import Residents
from loradex.service.rollout import Rollout
from loradex.service.routing import Routed, Routing, asked_text
from loradex.service.shadow import Shadows
from loradex.service.trial import Rule, Trials
from loradex.service.views import ModelCard
from loradex.service.watch import Watcher

DEFAULT_RULE = Rule()
SHADOW_LOG_SIZE = 64 << 20


class Service:
    """One base model and its adapters, served.

    All of it belongs to one asyncio event loop. The registry's queries block, so they run in threads.

    Args:
        registry: names and files. The caller closes it.
        engine: not started yet; `start` and `stop` do that.
        max_lora_rank: adapters above it are refused.
        max_loras: slots of the engine, as in its configuration. A replace needs a second slot beside the old version's:
            with one slot only it waits until no answer uses the old version.
        allow_dirs, allow_urls: folders, and beginnings of addresses, from which untrusted callers may add adapters.
        max_adapter_size: bytes that are downloaded, unpacked or uploaded for one adapter at most.
        load_share: share of one core that work on adapter files takes while answers are computed.
        watch: folders whose entries are adapters, taken in when they have not changed for `settle_seconds`.
        router: the file that says how `auto` chooses the adapter; None for no routing.
        resolvers: asked where the adapter of an unknown name lies.
        adapter_memory: bytes of weights in the engine; None for as many as the slots hold.
        adapter_host_memory: bytes of copies in host memory, where the engine computes on a device with its own; None
            for no limit.
        adapter_ttl: seconds after which an adapter that nobody asks for leaves the engine; None lets it stay.
        max_queue_seconds: longest wait for room, of requests and of replaces.
        fair_seconds: a request that has waited so long for room closes some to newcomers.
        rule: when a version that fails is rolled back.
        shadow_log_size: bytes that the recorded answers of one name's shadow may take.
        clock: seconds from any start, for measurements.
    """

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        *,
        max_lora_rank: int,
        max_loras: int = 8,
        adapter_memory: int | None = None,
        adapter_host_memory: int | None = None,
        adapter_ttl: float | None = None,
        allow_dirs: Sequence[Path] = (),
        allow_urls: Sequence[str] = (),
        max_adapter_size: int = MAX_ADAPTER_SIZE,
        load_share: float = SHARE,
        watch: Sequence[Path] = (),
        settle_seconds: float = 2.0,
        resolvers: Sequence[Resolver] = (),
        router: Path | None = None,
        max_queue_seconds: float = 30.0,
        fair_seconds: float = 1.0,
        rule: Rule = DEFAULT_RULE,
        shadow_log_size: int = SHADOW_LOG_SIZE,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.registry = registry
        self.engine = engine
        self.max_loras = max_loras
        self.max_lora_rank = max_lora_rank
        self.max_adapter_size = max_adapter_size
        self.metrics = Metrics()
        pins = Pins()
        self.residency = Residency(
            engine,
            self._read,
            budget=Budget(max_loras, adapter_memory),
            host_memory=adapter_host_memory,
            queue_seconds=max_queue_seconds,
            fair_seconds=fair_seconds,
            idle_seconds=adapter_ttl,
            pinned=pins,
            clock=clock,
            loaded=self.metrics.loaded,
        )
        self._names = Names(registry, lambda: engine.info, clock)
        rendering = Rendering(engine, self._read)
        mixing = Mixing(self.residency, self._read, max_loras, max_queue_seconds)
        replacer = Replacer(registry, engine, self.residency, self._names, pins, self.metrics, clock)
        self.rollout = Rollout(registry, engine, self._names, replacer)
        trials = Trials(rule)
        access = Access(tuple(allow_dirs), tuple(allow_urls))
        self.adapters = Adapters(
            registry,
            engine,
            self.residency,
            self._names,
            replacer,
            intake=Intake(registry, engine, max_lora_rank, access, max_adapter_size, load_share),
            overview=Overview(engine, self.residency, self.metrics.traffic),
            trials=trials,
            rendering=rendering,
            clock=clock,
        )
        self.places = Places(self.adapters, allow_dirs)
        journal = Journal(registry.home / FOLDER, shadow_log_size)
        shadows = Shadows(engine, rendering, self.residency, self._read, journal, self.metrics, clock)
        self._aftermath = Aftermath(self._names, self.adapters, self.rollout, trials, shadows, self.metrics, clock)
        self._generator = Generator(engine, self._names, rendering, mixing, self.metrics, self._aftermath, clock)
        self.watcher = Watcher(self.adapters, watch, settle_seconds, clock)
        self._lookup = Lookup(self.adapters, tuple(resolvers), clock)
        self.routing = Routing(router, self._names, self.metrics, Embedder(engine), clock)
        self.residents = Residents(registry, engine, self.residency, self._names, replacer, pins, clock)
        self.jobs = Jobs()
        self._clock = clock
        self._ready = False

    @property
    def info(self) -> ModelInfo:
        """The base model. Known once `start` has returned."""
        return self.engine.info

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return self._ready

    @property
    def base_names(self) -> frozenset[str]:
        """The names that mean the base model and that no adapter may have."""
        return self._names.base_names

    async def start(self, progress: Progress | None = None) -> None:
        """Start the engine, and take in what lies in the watched folders.

        Raises:
            ConfigInvalid: the base model cannot be found, read or served, a watched folder is not there, or the
                router's file is wrong.
            FilesNotFound, InvalidRequest: so are files that it names.
        """
        await self.routing.start()
        await self.engine.start(progress)
        self.metrics.watch(self.engine, self.residency, self._names)
        await self.watcher.start()
        self._ready = True

    async def stop(self) -> None:
        """Refuse what waits, abort what runs and stop the engine. Does nothing the second time."""
        self._ready = False
        await self.watcher.stop()
        await self.jobs.stop()
        await self._aftermath.stop()
        await self.residency.stop()
        await self.engine.stop()

    def models(self) -> list[ModelCard]:
        """Return the base, then every enabled adapter for it by name.

        Raises:
            RegistryFailed: the registry cannot be read, which is asked at most once a second.
        """
        info = self.info
        cards = [ModelCard(info.id, info.path, None, int(time.time()), info.max_model_len, None)]
        for record in self._names.records():
            version = record.version(record.current) if record.current is not None else None
            if record.enabled and version is not None:
                ref = AdapterRef(record.name, version.version, version.digest)
                created = int(version.created_at.timestamp())
                cards.append(ModelCard(record.name, version.source, info.id, created, None, ref))
        return cards

    async def generate(self, ask: Ask) -> Answer:
        """Begin an answer. Everything that is wrong with the request is raised here, before any event.

        Raises:
            ModelNotFound: `model` means nothing here, and no resolver knows it, or there is no router for `auto`.
            AdapterInvalid, FilesNotFound, SourceFailed: a resolver knows it, and it cannot be served.
            InvalidRequest: the prompt is empty, the conversation cannot be rendered, the mix is none, or the grammar of
                the answer has a mistake.
            Unsupported: the engine holds answers to no form.
            ContextLengthExceeded: prompt, or prompt and `min_tokens`, do not fit the context.
            Overloaded: there was no room for the adapter in time.
            AdapterTooLarge: there can be none, or not for all adapters of a mix.
            AdapterDamaged: the adapter's files are gone or changed.
            EngineStopped: the service is not running.
        """
        if not self._ready:
            raise EngineStopped("The service is not running")
        routed: Routed | None = None
        if ask.model == AUTO:  # once, and before any name is looked up: from here on it is a request like any other
            routed = await self.routing.decide(asked_text(ask.prompt))
            ask = self._as_routed(ask, routed)
        answer = await self._begin(ask)
        answer.routed = routed
        return answer

    def compare(self, ask: Ask, sides: Sequence[str], reference: str = "") -> Comparison:
        """Return a comparison of what several sides say to one prompt, all in one batch; nothing is asked yet.

        Raises:
            InvalidRequest: there is no side, or there are too many.
        """
        return Comparison(self.generate, ask, tuple(sides), reference, self._clock)

    def _as_routed(self, ask: Ask, routed: Routed) -> Ask:
        """Return what is asked of the adapter that was chosen; what its route says wins over what its version does."""
        own = routed.defaults
        return with_values(
            ask,
            model=routed.decision.adapter,
            prompt=own.prompt(ask.prompt),
            sampling=own.sampled(ask.sampling, ask.fixed, self.info.max_model_len),
            given=ask.fixed | own.sampling.keys(),
        )

    async def _begin(self, ask: Ask) -> Answer:
        try:
            return await self._generator.begin(ask)
        except ModelNotFound:
            if not await self._lookup.bring(self._generator.asked(ask)):
                raise
        return await self._generator.begin(ask)

    async def _read(self, digest: str) -> Adapter:
        return await asyncio.to_thread(self.registry.adapter, digest)

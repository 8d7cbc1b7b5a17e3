"""Metrics that are not counted but read, at the moment of a scrape, from engine, residency and registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from loradex.engine.base import Engine
from loradex.errors import EngineStopped, RegistryFailed
from loradex.service.names import Names
from loradex.service.residency import Residency
from loradex.service.version_gauges import version_gauges

Totals = Callable[[str], Iterator[Metric]]
"""Yields what is counted over all requests of the base model of that name."""


class Gauges(Collector):
    """Series made from snapshots."""

    def __init__(self, engine: Engine, residency: Residency, names: Names, totals: Totals) -> None:
        self._engine = engine
        self._residency = residency
        self._names = names
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield ours, then vLLM's."""
        holds = self._residency.states().values()
        queued = sum(hold.waiting for hold in holds)
        running = sorted({name for hold in holds if hold.resident for name in hold.names})
        waiting = sorted({name for hold in holds if hold.waiting for name in hold.names})
        resident, pinned = sum(hold.resident for hold in holds), sum(hold.pinned for hold in holds)
        yield GaugeMetricFamily("loradex_adapters_resident", "Adapters the engine can use at its next step", resident)
        yield GaugeMetricFamily("loradex_adapters_pinned", "Adapters that never make room for others", pinned)
        yield GaugeMetricFamily("loradex_requests_queued", "Requests that wait for an adapter", queued)
        yield from self._memory()
        yield from self._moves()
        with suppress(RegistryFailed, EngineStopped):
            yield from version_gauges(self._residency, self._names.records())
        with suppress(EngineStopped):  # a scrape after the end still gets what was counted
            yield from self._engine_state(queued)
        yield from self._totals(self._engine.info.id)
        info = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Adapters that are resident and ready, and adapters that requests wait for; the value is the time",
            labels=("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
        )
        slots = self._residency.room.budget.slots
        info.add_metric((str(slots), ",".join(waiting), ",".join(running)), time.time())
        yield info

    def _memory(self) -> Iterator[Metric]:
        room, host = self._residency.room, self._residency.host
        held = GaugeMetricFamily("loradex_adapter_memory_bytes", "Adapter weights by tier", labels=("tier",))
        limit = GaugeMetricFamily(
            "loradex_adapter_memory_limit_bytes",
            "How many there may be; missing where there is no limit",
            labels=("tier",),
        )
        with suppress(RegistryFailed, EngineStopped):
            held.add_metric(("disk",), self._stored())
        for tier, size, budget in (("device", room.bytes, room.budget.bytes), ("host", host.bytes, host.budget)):
            held.add_metric((tier,), size)
            if budget is not None:
                limit.add_metric((tier,), budget)
        yield held
        yield limit

    def _stored(self) -> int:
        """Return the bytes of weights on disk, content that several versions share once."""
        versions = (version for record in self._names.records() for version in record.versions)
        return sum({version.digest: version.bytes for version in versions}.values())

    def _moves(self) -> Iterator[Metric]:
        residency = self._residency
        evicted = CounterMetricFamily(
            "loradex_adapter_evictions", "Adapters that made room for others, by the tier they left", labels=("tier",)
        )
        evicted.add_metric(("device",), residency.evictions)
        evicted.add_metric(("host",), residency.host.evictions)
        yield evicted
        said = "Adapters that left since nobody asked for them"
        yield CounterMetricFamily("loradex_adapter_expiries", said, residency.expiries)
        yield CounterMetricFamily("loradex_adapter_load_failures", "Loads that failed", residency.failed_loads)

    def _engine_state(self, queued: int) -> Iterator[Metric]:
        stats, model = self._engine.stats(), self._engine.info.id
        used = 1 - stats.blocks_free / stats.blocks_total if stats.blocks_total else 0.0
        yield gauge("vllm:num_requests_running", "Requests in the batch", model, stats.running)
        waiting = stats.waiting + queued
        yield gauge("vllm:num_requests_waiting", "Requests that wait for the batch or an adapter", model, waiting)
        yield gauge("vllm:kv_cache_usage_perc", "Share of cache blocks in use, from 0 to 1", model, used)
        queries, hits = stats.prefix_queries, stats.prefix_hits
        yield counter("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache", model, queries)
        yield counter("vllm:prefix_cache_hits", "Tokens found in the prefix cache", model, hits)
        yield counter("vllm:num_preemptions", "Requests put back for lack of blocks", model, stats.preemptions)
        cache = GaugeMetricFamily(
            "vllm:cache_config_info", "Size of the cache", labels=("block_size", "num_gpu_blocks")
        )
        cache.add_metric((str(stats.block_size), str(stats.blocks_total)), 1)
        yield cache


def gauge(name: str, text: str, model: str, value: float) -> Metric:
    """Return a gauge of a base model."""
    metric = GaugeMetricFamily(name, text, labels=("model_name",))
    metric.add_metric((model,), value)
    return metric


def counter(name: str, text: str, model: str, value: float) -> Metric:
    """Return a counter of a base model."""
    metric = CounterMetricFamily(name, text, labels=("model_name",))
    metric.add_metric((model,), value)
    return metric

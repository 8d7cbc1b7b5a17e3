"""Every metric of a service, in a registry of its own: ours by adapter, and the names of vLLM that gateways read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from loradex.core.adapter import BASE, AdapterRef
from loradex.core.mix import Mix
from loradex.engine.base import Engine
from loradex.errors import EngineStopped
from loradex.service.residency import Residency

MAX_LABELS = 1000
"""Versions with series of their own; those seen later share the label `other`."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """Counts what the service does. Nothing here is shared between two services in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seen: set[tuple[str, str]] = set()
        by_version = ("adapter", "version")
        mixed = "; a mix counts for each of its adapters"
        self._requests = self._counter("loradex_requests", f"Requests by outcome{mixed}", (*by_version, "outcome"))
        self._prompt = self._counter("loradex_prompt_tokens", f"Tokens of prompts{mixed}", by_version)
        self._output = self._counter("loradex_output_tokens", f"Tokens of answers{mixed}", by_version)
        self._replaces = self._counter("loradex_adapter_replaces", "Versions replaced under a name", ("mode",))
        for mode in ("drain", "immediate"):
            self._replaces.labels(mode)  # so that the series are there, at 0, before the first replace
        self._first = self._histogram("loradex_time_to_first_token_seconds", "Arrival to first token")
        self._gap = self._histogram("loradex_inter_token_seconds", "Token to token of one answer", _GAPS)
        self._whole = self._histogram("loradex_request_seconds", "Arrival to end")
        self._loads = self._histogram("loradex_adapter_load_seconds", "Reading an adapter and making it resident")
        self._prompt_total = 0
        self._output_total = 0
        self._success: dict[str, int] = {"stop": 0, "length": 0, "abort": 0}

    def watch(self, engine: Engine, residency: Residency) -> None:
        """Show the state of engine and slots too, as it is whenever `render` is called."""
        self._registry.register(_State(engine, residency, self._totals))

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def refused(self, mix: Mix[AdapterRef] | None, code: str) -> None:
        """Count a request that got no answer; `code` is the error's. `mix` is None where nothing was resolved."""
        for adapter, version in self._labels(mix) if mix is not None else (("", ""),):
            self._requests.labels(adapter, version, code).inc()

    def ended(self, mix: Mix[AdapterRef], outcome: str, prompt: int, output: int, seconds: float) -> None:
        """Count a request that was admitted, for each member: its outcome, tokens, and seconds since arrival."""
        for labels in self._labels(mix):
            self._requests.labels(*labels, outcome).inc()
            self._prompt.labels(*labels).inc(prompt)
            self._output.labels(*labels).inc(output)
        self._whole.observe(seconds)
        self._prompt_total += prompt
        self._output_total += output

    def finished(self, reason: str) -> None:
        """Count one answer that ended by itself, of the `n` of a request."""
        self._success[reason] = self._success.get(reason, 0) + 1

    def first_token(self, seconds: float) -> None:
        """Record the time from arrival to a first token."""
        self._first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """Record the time between two pieces of one answer."""
        self._gap.observe(seconds)

    def loaded(self, seconds: float) -> None:
        """Record a load."""
        self._loads.observe(seconds)

    def replaced(self, mode: str) -> None:
        """Count a replace."""
        self._replaces.labels(mode).inc()

    def _totals(self, model: str) -> Iterator[Metric]:
        """Yield what vLLM counts over all requests of a base model."""
        yield _counter("vllm:prompt_tokens", "Tokens of prompts", model, self._prompt_total)
        yield _counter("vllm:generation_tokens", "Tokens of answers", model, self._output_total)
        ended = CounterMetricFamily(
            "vllm:request_success", "Answers by the reason of their end", labels=("model_name", "finished_reason")
        )
        for reason, count in self._success.items():
            ended.add_metric((model, reason), count)
        yield ended

    def _labels(self, mix: Mix[AdapterRef]) -> set[tuple[str, str]]:
        """Return adapter and version of each member, of the base where there is none."""
        return {self._version(ref) for ref in mix.adapters} or {(BASE, "")}

    def _version(self, ref: AdapterRef) -> tuple[str, str]:
        labels = (ref.name, str(ref.version))
        if labels not in self._seen:
            if len(self._seen) >= MAX_LABELS:
                return ("other", "")
            self._seen.add(labels)
        return labels

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)


class _State(Collector):
    """Series made from a snapshot of engine and slots at the moment of a scrape."""

    def __init__(self, engine: Engine, residency: Residency, totals: Callable[[str], Iterator[Metric]]) -> None:
        self._engine = engine
        self._residency = residency
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield ours, then vLLM's."""
        holds = self._residency.states().values()
        queued = sum(hold.waiting for hold in holds)
        running = sorted({name for hold in holds if hold.resident for name in hold.names})
        waiting = sorted({name for hold in holds if hold.waiting for name in hold.names})
        resident = sum(hold.resident for hold in holds)
        yield GaugeMetricFamily("loradex_adapters_resident", "Adapters the engine can use at its next step", resident)
        yield GaugeMetricFamily("loradex_requests_queued", "Requests that wait for an adapter", queued)
        evictions, failures = self._residency.evictions, self._residency.failed_loads
        yield CounterMetricFamily("loradex_adapter_evictions", "Adapters that made room for others", evictions)
        yield CounterMetricFamily("loradex_adapter_load_failures", "Loads that failed", failures)
        with suppress(EngineStopped):  # a scrape after the end still gets what was counted
            yield from self._engine_state(queued)
        yield from self._totals(self._engine.info.id)
        info = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Adapters that are resident and ready, and adapters that requests wait for; the value is the time",
            labels=("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
        )
        info.add_metric((str(self._residency.room.budget.slots), ",".join(waiting), ",".join(running)), time.time())
        yield info

    def _engine_state(self, queued: int) -> Iterator[Metric]:
        stats, model = self._engine.stats(), self._engine.info.id
        used = 1 - stats.blocks_free / stats.blocks_total if stats.blocks_total else 0.0
        yield _gauge("vllm:num_requests_running", "Requests in the batch", model, stats.running)
        waiting = stats.waiting + queued
        yield _gauge("vllm:num_requests_waiting", "Requests that wait for the batch or an adapter", model, waiting)
        yield _gauge("vllm:kv_cache_usage_perc", "Share of cache blocks in use, from 0 to 1", model, used)
        queries, hits = stats.prefix_queries, stats.prefix_hits
        yield _counter("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache", model, queries)
        yield _counter("vllm:prefix_cache_hits", "Tokens found in the prefix cache", model, hits)
        yield _counter("vllm:num_preemptions", "Requests put back for lack of blocks", model, stats.preemptions)
        cache = GaugeMetricFamily(
            "vllm:cache_config_info", "Size of the cache", labels=("block_size", "num_gpu_blocks")
        )
        cache.add_metric((str(stats.block_size), str(stats.blocks_total)), 1)
        yield cache


def _gauge(name: str, text: str, model: str, value: float) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=("model_name",))
    metric.add_metric((model,), value)
    return metric


def _counter(name: str, text: str, model: str, value: float) -> Metric:
    metric = CounterMetricFamily(name, text, labels=("model_name",))
    metric.add_metric((model,), value)
    return metric

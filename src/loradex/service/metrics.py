"""Every metric of a service, in a registry of its own: ours by adapter, and the names of vLLM that gateways read."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from loradex.core.adapter import BASE, AdapterRef
from loradex.core.mix import Mix
from loradex.engine.base import Engine
from loradex.service.gauges import Gauges, counter
from loradex.service.names import Names
from loradex.service.residency import Residency
from loradex.service.traffic import Traffic, TrafficLog

MAX_LABELS = 1000
"""Versions with series of their own; those seen later share the label `other`."""

MAX_HISTOGRAMS = 100
"""The same for histograms."""

_ENDS = ("stop", "length", "abort")
"""Of answers that did not fail; `abort` is that of those whose client went away."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_SHARES = tuple(tenth / 10 for tenth in range(1, 11))
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """Counts what the service does. Nothing here is shared between two services in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.traffic = TrafficLog()
        self._seen: set[tuple[str, str]] = set()
        self._timed_seen: set[tuple[str, str]] = set()
        by_version = ("adapter", "version")
        mixed = "; a mix counts for each of its adapters"
        self._requests = self._counter("loradex_requests", f"Requests by outcome{mixed}", (*by_version, "outcome"))
        self._prompt = self._counter("loradex_prompt_tokens", f"Tokens of prompts{mixed}", by_version)
        self._output = self._counter("loradex_output_tokens", f"Tokens of answers{mixed}", by_version)
        self._replaces = self._counter("loradex_adapter_replaces", "Versions replaced under a name", ("mode",))
        self._rollbacks = self._counter(
            "loradex_adapter_rollbacks", "Versions rolled back because they failed", by_version
        )
        self._copies = self._counter("loradex_shadow_requests", "Copies for a shadow", (*by_version, "outcome"))
        self._routed = self._counter("loradex_route_decisions", "Decisions of the router", ("policy", "adapter", "why"))
        for mode in ("drain", "immediate"):
            self._replaces.labels(mode)  # so that the series are there, at 0, before the first replace
        self._first = self._histogram("loradex_time_to_first_token_seconds", "Arrival to first token", by_version)
        self._gap = self._histogram("loradex_inter_token_seconds", "Token to token of one answer", by_version, _GAPS)
        self._whole = self._histogram("loradex_request_seconds", "Arrival to end", by_version)
        self._loads = self._histogram("loradex_adapter_load_seconds", "Reading an adapter and making it resident", ())
        self._sure = self._histogram(
            "loradex_route_confidence", "Confidence of the router in its decisions", ("policy",), _SHARES
        )
        self._deciding = self._histogram("loradex_route_seconds", "Time of a decision", ("policy",), _GAPS)
        self._prompt_total = 0
        self._output_total = 0
        self._success: dict[str, int] = dict.fromkeys(_ENDS, 0)

    def watch(self, engine: Engine, residency: Residency, names: Names) -> None:
        """Show the state of engine and memory too, as it is whenever `render` is called."""
        self._registry.register(Gauges(engine, residency, names, self._totals))

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def refused(self, mix: Mix[AdapterRef] | None, code: str) -> None:
        """Count a request that got no answer; `code` is the error's. `mix` is None where nothing was resolved."""
        for adapter, version in self._labels(mix) if mix is not None else (("", ""),):
            self._requests.labels(adapter, version, code).inc()
        self.traffic.note(mix.adapters if mix is not None else (), Traffic(requests=1, errors=1))

    def ended(self, mix: Mix[AdapterRef], outcome: str, prompt: int, output: int, seconds: float) -> None:
        """Count a request that was admitted, for each member: its outcome, tokens, and seconds since arrival."""
        for labels in self._labels(mix):
            self._requests.labels(*labels, outcome).inc()
            self._prompt.labels(*labels).inc(prompt)
            self._output.labels(*labels).inc(output)
        for labels in self._timed(mix):
            self._whole.labels(*labels).observe(seconds)
        failed = outcome not in _ENDS
        self.traffic.note(
            mix.adapters, Traffic(requests=1, errors=int(failed), prompt_tokens=prompt, output_tokens=output)
        )
        self._prompt_total += prompt
        self._output_total += output

    def finished(self, reason: str) -> None:
        """Count one answer that ended by itself, of the `n` of a request."""
        self._success[reason] = self._success.get(reason, 0) + 1

    def first_token(self, mix: Mix[AdapterRef], seconds: float) -> None:
        """Record the time from arrival to a first token."""
        for labels in self._timed(mix):
            self._first.labels(*labels).observe(seconds)
        self.traffic.note(mix.adapters, Traffic(answers=1, first_seconds=seconds))

    def next_token(self, mix: Mix[AdapterRef], seconds: float) -> None:
        """Record the time between two pieces of one answer."""
        for labels in self._timed(mix):
            self._gap.labels(*labels).observe(seconds)

    def loaded(self, seconds: float) -> None:
        """Record a load."""
        self._loads.observe(seconds)

    def replaced(self, mode: str) -> None:
        """Count a replace."""
        self._replaces.labels(mode).inc()

    def routed(self, policy: str, adapter: str, why: str, score: float, seconds: float) -> None:
        """Count a decision of the router, which took so long; adapters are those of its file."""
        self._routed.labels(policy, adapter, why).inc()
        self._sure.labels(policy).observe(score)
        self._deciding.labels(policy).observe(seconds)

    def rolled_back(self, ref: AdapterRef) -> None:
        """Count a version that was rolled back because it failed."""
        self._rollbacks.labels(*_capped(ref, self._seen, MAX_LABELS)).inc()

    def shadowed(self, ref: AdapterRef, outcome: str) -> None:
        """Count a copy for the shadow `ref`: `answered`, `failed`, or `dropped` because others were waiting."""
        self._copies.labels(*_capped(ref, self._seen, MAX_LABELS), outcome).inc()

    def _totals(self, model: str) -> Iterator[Metric]:
        """Yield what vLLM counts over all requests of a base model."""
        yield counter("vllm:prompt_tokens", "Tokens of prompts", model, self._prompt_total)
        yield counter("vllm:generation_tokens", "Tokens of answers", model, self._output_total)
        ended = CounterMetricFamily(
            "vllm:request_success", "Answers by the reason of their end", labels=("model_name", "finished_reason")
        )
        for reason, count in self._success.items():
            ended.add_metric((model, reason), count)
        yield ended

    def _labels(self, mix: Mix[AdapterRef]) -> set[tuple[str, str]]:
        """Return adapter and version of each member, of the base where there is none."""
        return {_capped(ref, self._seen, MAX_LABELS) for ref in mix.adapters} or {(BASE, "")}

    def _timed(self, mix: Mix[AdapterRef]) -> set[tuple[str, str]]:
        """Do the same for histograms, each of which is some twenty series."""
        return {_capped(ref, self._timed_seen, MAX_HISTOGRAMS) for ref in mix.adapters} or {(BASE, "")}

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)


def _capped(ref: AdapterRef, seen: set[tuple[str, str]], most: int) -> tuple[str, str]:
    """Return the labels of a version; those of the `other` when `most` were seen before it."""
    labels = (ref.name, str(ref.version))
    if labels not in seen:
        if len(seen) >= most:
            return ("other", "")
        seen.add(labels)
    return labels

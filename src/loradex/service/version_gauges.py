"""Metrics of each version that are read at the moment of a scrape: where it is, how it was loaded and left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from loradex.registry.records import AdapterRecord
from loradex.service.residency import Residency
from loradex.service.usage import Usage

MOST = 1000
"""Versions with series of their own; the others share the label `other`."""

_COUNTED: Sequence[tuple[str, str, Callable[[Usage], float]]] = (
    ("loradex_adapter_hits", "Requests that found their adapter resident", attrgetter("hits")),
    ("loradex_adapter_misses", "Requests that waited for a load of their adapter", attrgetter("misses")),
    ("loradex_adapter_loads", "Loads of an adapter", attrgetter("loads")),
    ("loradex_adapter_evicted", "Times that an adapter made room for others in the engine", attrgetter("evictions")),
)

_Found = dict[str, tuple[str, str]]
"""Digests, and the adapter and version whose labels they have."""


def version_gauges(residency: Residency, records: Iterable[AdapterRecord]) -> Iterator[Metric]:
    """Yield the metrics of every version that was used since the start, under the first name that has it."""
    used: _Found = {}
    usage = residency.ledger.of
    for record in records:
        for version in record.versions:
            if usage(version.digest).leases or usage(version.digest).loads:
                used.setdefault(version.digest, (record.name, str(version.version)))
    for name, text, count in _COUNTED:
        family = CounterMetricFamily(name, text, labels=("adapter", "version"))
        for digest, labels in islice(used.items(), MOST):
            family.add_metric(labels, count(usage(digest)))
        if len(used) > MOST:
            family.add_metric(("other", ""), sum(count(usage(digest)) for digest in islice(used, MOST, None)))
        yield family
    yield _last_loads(residency, used)
    yield _bytes(residency, used)


def _last_loads(residency: Residency, used: _Found) -> Metric:
    text = "Seconds of the last load of an adapter"
    family = GaugeMetricFamily("loradex_adapter_last_load_seconds", text, labels=("adapter", "version"))
    for digest, labels in islice(used.items(), MOST):
        if residency.ledger.of(digest).loads:
            family.add_metric(labels, residency.ledger.of(digest).load_seconds)
    return family


def _bytes(residency: Residency, used: _Found) -> Metric:
    """Return what each version takes in each tier where it is."""
    text = "Weights of an adapter, in each tier where they are now"
    family = GaugeMetricFamily("loradex_adapter_bytes", text, labels=("adapter", "version", "tier"))
    device = {digest: hold.bytes for digest, hold in residency.states().items() if hold.resident}
    for tier, held in (("device", device.get), ("host", residency.host.held)):
        rest = 0
        for number, (digest, labels) in enumerate(used.items()):
            size = held(digest) or 0
            if number >= MOST:
                rest += size
            elif size:
                family.add_metric((*labels, tier), size)
        if rest:
            family.add_metric(("other", "", tier), rest)
    return family

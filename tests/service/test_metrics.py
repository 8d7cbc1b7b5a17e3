from __future__ import annotations

import itertools

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loradex.core.adapter import AdapterRef
from loradex.core.mix import Mix
from loradex.errors import ModelNotFound
from loradex.service.metrics import MAX_HISTOGRAMS, MAX_LABELS, Metrics

from .conftest import MakeDeck
from .deck import Deck

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def test_requests_and_tokens_are_counted_by_version(deck: Deck) -> None:
    await deck.add("medical", 1)
    for _ in range(2):
        await deck.text("medical")
    await deck.text("base")
    with pytest.raises(ModelNotFound):
        await deck.text("nobody")
    answer = await deck.service.generate(deck.ask("medical"))
    await answer.aclose()
    found = samples(deck.service.metrics)
    who = {"adapter": "medical", "version": "1"}
    assert value(found, "loradex_requests_total", **who, outcome="stop") == 2
    assert value(found, "loradex_requests_total", **who, outcome="abort") == 1
    assert value(found, "loradex_requests_total", adapter="base", version="", outcome="stop") == 1
    assert value(found, "loradex_requests_total", adapter="", version="", outcome="model_not_found") == 1
    assert value(found, "loradex_output_tokens_total", **who) == 2 * len("12345678: hello$")
    assert value(found, "loradex_prompt_tokens_total", **who) == 3 * 5
    base = {"adapter": "base", "version": ""}
    assert value(found, "loradex_time_to_first_token_seconds_count", **who) == 2
    assert value(found, "loradex_time_to_first_token_seconds_count", **base) == 1
    assert value(found, "loradex_request_seconds_count", **who) == 3
    assert value(found, "loradex_inter_token_seconds_count", **who) == 2 * 15
    assert value(found, "loradex_inter_token_seconds_count", **base) == 11
    assert value(found, "loradex_adapter_load_seconds_count") == 1
    model = {"model_name": "tiny"}
    assert value(found, "vllm:request_success_total", **model, finished_reason="stop") == 3
    assert value(found, "vllm:prompt_tokens_total", **model) == 20
    assert value(found, "vllm:generation_tokens_total", **model) == 2 * 16 + 12


async def test_the_gauges_that_gateways_read(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=2)
    await deck.add("medical", 1)
    await deck.add("legal", 2)
    stream = await deck.endless("medical")
    found = samples(deck.service.metrics)
    assert value(found, "vllm:num_requests_running", model_name="tiny") == 1
    assert value(found, "vllm:num_requests_waiting", model_name="tiny") == 0
    assert 0 < value(found, "vllm:kv_cache_usage_perc", model_name="tiny") < 1
    assert value(found, "loradex_adapters_resident") == 2
    (info,) = [dict(labels) for name, labels in found if name == "vllm:lora_requests_info"]
    assert info == {"max_lora": "2", "running_lora_adapters": "legal,medical", "waiting_lora_adapters": ""}
    assert value(found, "vllm:cache_config_info", block_size="16", num_gpu_blocks="1024") == 1
    await stream.aclose()
    await deck.add("medical", 3)
    await deck.add("poetry", 4)
    found = samples(deck.service.metrics)
    assert value(found, "loradex_adapter_replaces_total", mode="drain") == 1
    assert value(found, "loradex_adapter_evictions_total", tier="device") >= 1
    assert value(found, "loradex_adapter_evictions_total", tier="host") == 0


async def test_memory_and_the_use_of_each_version(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=2, memory=1 << 20)
    await deck.add("medical", 1)
    await deck.add("legal", 2, load=False)
    await deck.service.residents.pin("medical")
    for _ in range(2):
        await deck.text("medical")
    found = samples(deck.service.metrics)
    size = deck.engine.resident()[0].bytes
    assert value(found, "loradex_adapter_memory_bytes", tier="device") == size
    assert value(found, "loradex_adapter_memory_bytes", tier="host") == 0
    assert value(found, "loradex_adapter_memory_limit_bytes", tier="device") == 1 << 20
    assert value(found, "loradex_adapters_pinned") == 1
    who = {"adapter": "medical", "version": "1"}
    assert value(found, "loradex_adapter_misses_total", **who) == 1
    assert value(found, "loradex_adapter_hits_total", **who) == 3
    assert value(found, "loradex_adapter_loads_total", **who) == 1
    assert value(found, "loradex_adapter_evicted_total", **who) == 0
    assert value(found, "loradex_adapter_last_load_seconds", **who) > 0
    assert value(found, "loradex_adapter_bytes", **who, tier="device") == size
    stored = [(await deck.service.adapters.get(name)).versions[0].record.bytes for name in ("medical", "legal")]
    assert value(found, "loradex_adapter_memory_bytes", tier="disk") == sum(stored)
    assert not [labels for name, labels in found if ("adapter", "legal") in labels]


async def test_versions_beyond_the_cap_share_their_usage(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradex.service.version_gauges.MOST", 1)
    for seed, name in enumerate(("a", "b", "c"), 1):
        await deck.add(name, seed)
    found = samples(deck.service.metrics)
    assert value(found, "loradex_adapter_loads_total", adapter="a", version="1") == 1
    assert value(found, "loradex_adapter_loads_total", adapter="other", version="") == 2
    sizes = {hold.bytes for hold in deck.service.residency.states().values()}
    assert value(found, "loradex_adapter_bytes", adapter="other", version="", tier="device") == 2 * sizes.pop()
    assert ("loradex_adapter_last_load_seconds", (("adapter", "other"), ("version", ""))) not in found


async def test_times_come_from_the_clock(make_deck: MakeDeck) -> None:
    ticks = itertools.count()
    deck = await make_deck(clock=lambda: float(next(ticks)))
    await deck.text("base")
    found = samples(deck.service.metrics)
    assert value(found, "loradex_time_to_first_token_seconds_sum", adapter="base", version="") == 1.0


async def test_after_the_end_what_was_counted_can_still_be_read(deck: Deck) -> None:
    await deck.text("base")
    await deck.service.stop()
    assert b'loradex_requests_total{adapter="base"' in deck.service.metrics.render()


def test_versions_beyond_the_cap_share_a_label() -> None:
    metrics = Metrics()
    for version in range(MAX_LABELS + 5):
        metrics.ended(Mix.of(AdapterRef("medical", version, "")), "stop", 1, 1, 0.1)
    found = samples(metrics)
    assert value(found, "loradex_requests_total", adapter="other", version="", outcome="stop") == 5
    assert value(found, "loradex_request_seconds_count", adapter="other", version="") == 5 + MAX_LABELS - MAX_HISTOGRAMS


def test_two_services_count_for_themselves() -> None:
    first, second = Metrics(), Metrics()
    first.replaced("drain")
    assert b'replaces_total{mode="drain"} 0.0' in second.render()

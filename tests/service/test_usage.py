from __future__ import annotations

from loradex.service.usage import Ledger


def test_hits_misses_loads_and_evictions_are_counted() -> None:
    ledger = Ledger()
    ledger.leased("a", hit=False)
    ledger.loaded("a", 0.5)
    ledger.leased("a", hit=True)
    ledger.evicted("a")
    usage = ledger.of("a")
    assert (usage.hits, usage.misses, usage.loads, usage.load_seconds, usage.evictions) == (1, 1, 1, 0.5, 1)
    assert ledger.of("b").misses == 0


def test_a_lease_counts_half_after_a_half_life_of_others() -> None:
    ledger = Ledger(half_life=4)
    ledger.leased("a", hit=True)
    for _ in range(4):
        ledger.leased("b", hit=True)
    assert ledger.frequency("a") == 0.5
    assert ledger.frequency("b") == 4.0
    assert ledger.frequency("c") == 0.0
    ledger.leased("a", hit=True)
    assert ledger.frequency("a") == 1.5


def test_the_longest_unused_is_forgotten() -> None:
    ledger = Ledger(kept=2)
    for digest in "abab":
        ledger.leased(digest, hit=False)
    ledger.leased("c", hit=False)
    assert [ledger.of(digest).misses for digest in "abc"] == [0, 2, 1]


def test_the_rate_is_that_of_all_loads() -> None:
    ledger = Ledger()
    assert ledger.load_rate is None
    ledger.loaded("a", 1.0, 100)
    ledger.loaded("b", 3.0, 500)
    assert ledger.load_rate == 150.0

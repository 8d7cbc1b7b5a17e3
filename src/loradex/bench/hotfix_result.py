"""What a hot fix under load has shown: the checks, and a result for `bench report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loradex.bench.pairs import Pairs, percentile
from loradex.bench.result import Record, Result
from loradex.bench.witness import Stream, Swap, Witness, in_force


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold: what was found, and whether it is so."""

    what: str
    ok: bool
    found: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was observed: answers without swaps, answers under swaps, and the swaps."""

    witness: Witness
    control: Sequence[Stream]
    streams: Sequence[Stream]
    swaps: Sequence[Swap]

    def whole(self, stream: Stream) -> bool:
        """Whether an answer came to its end."""
        return not stream.error and bool(stream.finish)

    @property
    def unsteady(self) -> list[Stream]:
        """Answers without any swap that were not those of version 0 alone: rounding in a batch does that."""
        return [each for each in self.control if self.whole(each) and self.witness.version(each) != 0]

    @property
    def mixed(self) -> list[Stream]:
        """Whole answers under swaps that no one version made."""
        return [each for each in self.streams if self.whole(each) and self.witness.version(each) is None]

    @property
    def stale(self) -> list[Stream]:
        """Whole answers of one version that the name did not mean when it was asked for."""
        found = [(each, self.witness.version(each)) for each in self.streams if self.whole(each)]
        return [each for each, version in found if version is not None and version not in in_force(each, 0, self.swaps)]

    def swapped(self, stream: Stream) -> int:
        """Return how many swaps fell into an answer."""
        until = stream.ended if stream.ended is not None else stream.sent
        return sum(stream.sent < swap.ended and swap.began < until for swap in self.swaps)

    def checks(self, wanted: int, bound: float) -> list[Check]:
        """Return every check. `wanted` is the number of swaps, `bound` the longest wait in seconds."""
        done = sum(not swap.error for swap in self.swaps)
        failed = [each for each in self.streams if each.error]
        cut = [each for each in self.streams if not each.error and not each.finish]
        total, hit = len(self.streams), sum(self.swapped(each) > 0 for each in self.streams)
        longest = max((each.longest for each in self.streams), default=0.0)
        slow = sum(each.longest > bound for each in self.streams)
        first = next((swap.error for swap in self.swaps if swap.error), "") or next((e.error for e in failed), "")
        return [
            Check("every swap succeeded", done == wanted, f"{done} of {wanted}" + (f": {first}" if first else "")),
            Check("a swap fell into answers", hit > 0, f"into {hit} of {total}"),
            Check("no answer failed", not failed, f"{len(failed)} of {total}"),
            Check("every answer finished", not cut, f"{total - len(failed) - len(cut)} of {total}"),
            self._one_version(total),
            Check("every answer was of the version in force", not self.stale, f"{len(self.stale)} were not"),
            Check(f"no wait was longer than {bound:g} s", not slow, f"{slow} were; the longest {longest * 1e3:.0f} ms"),
        ]

    def _one_version(self, total: int) -> Check:
        what = f"every answer held one version (by {self.witness.means})"
        if self.witness.means == "text" and self.unsteady:
            said = f"{len(self.unsteady)} of {len(self.control)} differ without any swap, so texts tell nothing here"
            return Check(what, False, said)
        return Check(what, not self.mixed, f"{len(self.mixed)} of {total} did not")

    def described(self, stream: Stream, began: float) -> dict[str, Any]:
        """Return an answer as plain values; times in seconds from `began`."""
        version = self.witness.version(stream) if self.whole(stream) else None
        mixed = self.whole(stream) and version is None
        return {
            "sent": stream.sent - began,
            "first": stream.times[0] - began if stream.times else None,
            "ended": (stream.ended or stream.sent) - began,
            "longest_wait": stream.longest,
            "version": None if version is None else version + 1,
            "swaps": self.swapped(stream),
            "error": stream.error,
            **({"mixed": True, "text": stream.text, "left_after": self.witness.left_at(stream)} if mixed else {}),
        }


def result_of(record: Record, bound: float, server: str, seen: Seen, given: dict[str, Any]) -> Result:
    """Return the result: waits with swaps against waits without, seconds of the swaps, checks, and every answer."""
    began = min((each.sent for each in seen.streams), default=0.0)
    checks = seen.checks(given["swaps"], bound)
    waits = [wait for each in seen.streams for wait in each.waits[1:]]
    calm = [wait for each in seen.control for wait in each.waits[1:]]
    rows = [
        Pairs(
            f"p{share} wait",
            "swapping",
            "undisturbed",
            "s",
            (percentile(waits, share),),
            (percentile(calm, share),),
            "lower",
        )
        for share in (50, 99)
    ]
    rows.append(
        Pairs("swap", "swap", "", "s", tuple(s.ended - s.began for s in seen.swaps if not s.error), (), "lower")
    )
    raw = {
        "ok": all(check.ok for check in checks),
        "checks": [asdict(check) for check in checks],
        "means": seen.witness.means,
        "swaps": [
            asdict(s) | {"began": s.began - began, "ended": s.ended - began, "version": s.version + 1}
            for s in seen.swaps
        ],
        "streams": [seen.described(each, began) for each in seen.streams],
    }
    return record.result(rows, floor=None, workload=given, model={"server": server}, raw=raw)

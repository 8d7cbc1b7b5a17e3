"""What a run of a file took: the counterpart of TensorRT-Edge-LLM's `--dumpProfile`."""

from __future__ import annotations

import resource
import statistics
import sys
from itertools import pairwise
from typing import Any

from loradex.llm.edge.answering import Run
from loradex.llm.output import RequestOutput


def profile_json(run: Run) -> dict[str, Any]:
    """Return the figures of a run: milliseconds, tokens a second, bytes.

    `prefill` is from a request's turn to its first token, `generation` what follows. `switches` are neighbouring
    requests with different adapters: a row's adapter is one number of a step, so that a switch has no step of its own.
    """
    done = [each.output for each in run.answers if each.output is not None]
    tokens = sum(output.outputs[0].length for output in done)
    cached = sum(output.num_cached_tokens or 0 for output in done)
    prompts = sum(len(output.prompt_token_ids) for output in done)
    first = [1e3 * each for output in done if (each := _first_token(output)) is not None]
    later = [1e3 * each for output in done if (each := _per_token(output)) is not None]
    adapters = [output.adapter for output in done]
    return {
        "requests": {"total": len(run.answers), "failed": len(run.answers) - len(done), "seconds": run.seconds},
        "prefill": {
            "total_runs": len(done),
            "computed_tokens": prompts - cached,
            "reused_tokens": cached,
            "first_token_ms": _spread(first),
        },
        "generation": {
            "total_tokens": tokens,
            "tokens_per_second": tokens / run.seconds if run.seconds else 0.0,
            "per_token_ms": _spread(later),
        },
        "steps": {"total": run.steps, "mean_ms": 1e3 * run.step_seconds / run.steps if run.steps else 0.0},
        "adapters": {"used": sorted(set(adapters)), "switches": sum(a != b for a, b in pairwise(adapters))},
        "memory": {"peak_bytes": _peak()},
    }


def _first_token(output: RequestOutput) -> float | None:
    times = output.metrics
    if times.first_token_time is None:
        return None
    return times.first_token_time - times.arrival_time - (times.time_in_queue or 0.0)


def _per_token(output: RequestOutput) -> float | None:
    times, tokens = output.metrics, output.outputs[0].length
    if times.first_token_time is None or times.finished_time is None or tokens < 2:
        return None
    return (times.finished_time - times.first_token_time) / (tokens - 1)


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {"median": 0.0, "max": 0.0}
    return {"median": statistics.median(values), "max": max(values)}


def _peak() -> int:
    """Return the largest resident set of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

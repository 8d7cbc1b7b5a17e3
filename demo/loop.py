"""The training loop shared by the base and the adapters."""

import math
import random
from collections.abc import Callable, Sequence

import torch

from demo.examples import IGNORE, Example

Report = Callable[[int, int, float], None]


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Group examples of similar length, since padding is wasted work, and shuffle the groups."""
    ordered = sorted(examples, key=lambda example: (len(example.ids), rng.random()))
    groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    rng.shuffle(groups)
    return groups


def tensors(group: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    """Pad a group on the right and stack it."""
    width = max(len(example.ids) for example in group)
    return {
        "input_ids": torch.tensor([e.ids + [pad] * (width - len(e.ids)) for e in group]),
        "attention_mask": torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in group]),
        "labels": torch.tensor([e.labels + [IGNORE] * (width - len(e.labels)) for e in group]),
    }


def rate_at(step: int, steps: int, peak: float) -> float:
    """Warm up over the first twentieth, then follow a cosine down to a hundredth of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def plan(
    epoch: Callable[[], list[Example]], epochs: int, size: int, rng: random.Random, limit: int | None
) -> list[list[Example]]:
    """Lay out all batches of a stage, with fresh wordings in every epoch."""
    groups: list[list[Example]] = []
    for _ in range(epochs):
        if limit is not None and len(groups) >= limit:
            break
        groups += batches(epoch(), size, rng)
    return groups[:limit]


def fit(model: torch.nn.Module, groups: Sequence[Sequence[Example]], pad: int, peak: float, report: Report) -> float:
    """Train the free weights of `model` on the groups and return the mean loss of the last tenth."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    losses: list[float] = []
    model.train()
    for step, group in enumerate(groups):
        for part in optimizer.param_groups:
            part["lr"] = rate_at(step, len(groups), peak)
        loss = model(**tensors(group, pad), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        report(step + 1, len(groups), losses[-1])
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)

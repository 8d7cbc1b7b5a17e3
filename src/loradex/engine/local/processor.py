"""What of this processor decides how weights lie and which kernels compute with them."""

from __future__ import annotations

import platform
from typing import Any

import torch

from loradex.engine.local.laid import LAYOUT
from loradex.engine.local.packed import multiplies_bfloat16


def processor() -> dict[str, Any]:
    """Return it as plain values: equal ones take each other's engine directories."""
    return {
        "machine": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": bool(multiplies_bfloat16()),
        "layout": LAYOUT,
    }


def described(found: dict[str, Any]) -> str:
    """Return it for people: `x86_64 with AVX2, without bfloat16, in panels-2-16`."""
    bfloat16 = "with" if found.get("bfloat16") else "without"
    return f"{found.get('machine')} with {found.get('vectors')}, {bfloat16} bfloat16, in {found.get('layout')}"

"""Compiles the kernels of graphics cards for one that need not be there, and prints what came of it as JSON.

A program of its own: in the tests' process Triton interprets its kernels.
"""

from __future__ import annotations

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from loradex.engine.local import lora_triton

TYPES = {
    **dict.fromkeys(("x", "y0", "y1", "y2"), "*bf16"),
    **dict.fromkeys(("products", "weights", "scaling"), "*fp32"),
    **dict.fromkeys(("tiles", "slots"), "*i32"),
    "table": "*i64",
}
HOPPER = GPUTarget("cuda", 90, 32)


def compiled(kernel: Any, stages: int = 3, **constants: int | bool) -> dict[str, object]:
    """Compile with bfloat16 and widths that are multiples of 16, as those of models are."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else TYPES.get(name, "i32") for name in names}
    even = [name for name in names if name in TYPES or name.startswith("width") or name == "stride"]
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    made = triton.compile(source, HOPPER, options={"num_stages": stages})
    return {"shared": made.metadata.shared, "numbers read one by one": made.asm["ptx"].count("ld.global.b16")}


if __name__ == "__main__":
    few, many = {"M": lora_triton.FEW, "R": 64}, {"M": lora_triton.MANY, "R": 64}
    shrink, expand = lora_triton._shrink, lora_triton._expand
    found = {
        "few products": compiled(shrink, K=lora_triton._FEW_INPUTS, **few),
        "few": compiled(expand, stages=2, N=lora_triton._FEW_COLUMNS, **few),
        "many products": compiled(shrink, K=lora_triton._MANY_INPUTS, **many),
        "many": compiled(expand, stages=2, N=lora_triton._MANY_COLUMNS, **many),
    }
    print(json.dumps(found))

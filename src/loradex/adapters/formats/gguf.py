"""LoRA adapters of llama.cpp, as `convert_lora_to_gguf.py` writes them and `llama-adapter.cpp` reads them.

A tensor `blk.0.attn_q.weight.lora_a` `[rank, in_features]` and its `.lora_b` `[out_features, rank]`; one alpha for all,
and a scaling of alpha / rank, or of 1 where alpha is 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loradex.adapters.formats.gguf_file import GgufFile, read_gguf_file
from loradex.adapters.formats.gguf_names import ARCHITECTURES, head_order, keeps_heads_apart, parse_name, tensor_name
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.refusal import refuse
from loradex.adapters.formats.tensor import Tensor, narrowed
from loradex.adapters.listing import listed, printable
from loradex.core.model import ModelInfo
from loradex.errors import AdapterInvalid, MissingExtra, Problem

_TOKENS: Final = "adapter.alora.invocation_tokens"
_TOKENS_IN_PEFT: Final = "alora_invocation_tokens"
_AGAIN: Final = "Convert the PEFT adapter from which it was made"


def read_gguf(path: Path, base: ModelInfo | None) -> Lora:
    """Read an adapter of llama.cpp; the order of a `llama`'s rows is undone with the heads of `base`.

    Raises:
        AdapterInvalid: it is none, holds more than low-rank pairs, or belongs to another architecture than `base`.
        OSError: the file cannot be opened.
    """
    found = read_gguf_file(path)
    architecture = _architecture(path, found, base)
    sides: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, tensor in found.tensors.items():
        meant = parse_name(name, architecture)
        if meant is None or len(tensor.shape) != 2:
            strange.append(name)
        else:
            sides.setdefault(meant[0], {})[meant[1]] = tensor
    if strange:
        refuse(path, "unsupported_tensors", f"holds what is no low-rank pair of a linear: {listed(strange)}", _AGAIN)
    if lonely := [module for module, pair in sides.items() if len(pair) < 2]:
        refuse(path, "missing_half", f"has only one half of {listed(lonely)}", _AGAIN)
    alpha = _alpha(path, found)
    pairs = {}
    for module, pair in sides.items():
        a, b = pair["a"], pair["b"]
        if not a.shape[0] or b.shape[1] != a.shape[0]:
            what = f"has pairs that do not fit together: A {list(a.shape)} and B {list(b.shape)} at `{module}`"
            refuse(path, "bad_pair", what, _AGAIN)
        if keeps_heads_apart(module, architecture):
            b = b.rows(np.argsort(_order(path, module, b, base)))
        pairs[module] = Pair(a, b, alpha or float(a.shape[0]))
    tokens = found.metadata.get(_TOKENS)
    return Lora(pairs, _base_name(found), {_TOKENS_IN_PEFT: tokens} if tokens else {})


def write_gguf(lora: Lora, path: Path, base: ModelInfo | None) -> list[str]:
    """Write an adapter for llama.cpp into a new file; return what changed on the way.

    Raises:
        AdapterInvalid: the format cannot hold it; lists every reason.
        MissingExtra: the package `gguf` is not installed.
        OSError: the disk refuses.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
    except ImportError as error:
        raise MissingExtra("The package `gguf`, which writes GGUF files,", "gguf") from error
    architecture, names = _target(lora, base)
    alpha = _common_alpha(lora)
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(alpha))
    if lora.base_model:
        writer.add_string("general.base_model.0.name", lora.base_model)
    if tokens := lora.options.get(_TOKENS_IN_PEFT):
        writer.add_key_value(_TOKENS, tokens, GGUFValueType.ARRAY, GGUFValueType.UINT32)
    widened = []
    for module, pair in lora.pairs.items():
        same = np.float32(pair.alpha) == alpha
        a, b = _served(pair.a), _served(pair.b if same else pair.b.scaled(pair.alpha / float(alpha)))
        if b.dtype != pair.b.dtype:
            widened.append(module)
        if keeps_heads_apart(module, architecture):
            b = b.rows(_order(path, module, b, base))
        for side, tensor in (("a", a), ("b", b)):
            values, kind = np.ascontiguousarray(tensor.values), GGMLQuantizationType[tensor.dtype]
            writer.add_tensor(f"{names[module]}.lora_{side}", values, raw_shape=tensor.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [f"B is float32 now in {len(widened)} modules, so as to hold their own scaling"] if widened else []


def _served(tensor: Tensor) -> Tensor:
    return narrowed(tensor.widened(), "F32") if tensor.dtype == "F64" else tensor


def _order(path: Path, module: str, b: Tensor, base: ModelInfo | None) -> NDArray[np.intp]:
    head_dim = base.head_dim if base is not None else 0
    if head_dim <= 0 or head_dim % 2 or b.shape[0] % head_dim:
        size = f"{head_dim} rows" if head_dim else "unknown size"
        what = f"keeps the rows of `{module}` head by head; the base model's heads, of {size}, do not divide them"
        refuse(path, "shape_mismatch", what, "Name the base model's folder with `--base DIR`")
    return head_order(b.shape[0], head_dim)


def _architecture(path: Path, found: GgufFile, base: ModelInfo | None) -> str:
    said = found.metadata
    if said.get("general.type") != "adapter" or said.get("adapter.type") != "lora":
        what = f"is a GGUF {printable(str(said.get('general.type', 'model')))}, not a LoRA adapter"
        refuse(path, "unsupported_type", what, "Give a file that `convert_lora_to_gguf.py` wrote")
    architecture = str(said.get("general.architecture"))
    if architecture not in ARCHITECTURES.values():
        what = f"is for the architecture `{printable(architecture)}`, whose tensor names are not known here"
        refuse(path, "unsupported_type", what, f"Known are {', '.join(sorted(set(ARCHITECTURES.values())))}")
    if base is not None and ARCHITECTURES.get(base.architecture) != architecture:
        what = f"is for the architecture `{architecture}`; the base model `{base.id}` is a `{base.architecture}`"
        refuse(path, "other_base", what, "Serve the base on which it was trained")
    return architecture


def _alpha(path: Path, found: GgufFile) -> float:
    alpha = found.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not np.isfinite(alpha):
        refuse(path, "bad_config", f"has an alpha that is no number: {str(alpha)[:40]}", _AGAIN)
    return alpha


def _base_name(found: GgufFile) -> str | None:
    value = found.metadata.get("general.base_model.0.name")
    return value if isinstance(value, str) and value.isprintable() else None


def _target(lora: Lora, base: ModelInfo | None) -> tuple[str, dict[str, str]]:
    """Return the architecture, and the name of each module's weight there."""
    if base is None:
        what = "Its tensors are named by the architecture of the base model"
        raise AdapterInvalid("GGUF needs the base model", [Problem("no_base", what, "Add `--base DIR`")])
    problems = []
    architecture = ARCHITECTURES.get(base.architecture, "")
    names = {module: tensor_name(module, architecture) for module in lora.pairs}
    if not architecture:
        what = f"Its tensor names for `{base.architecture}` are not known here"
        problems.append(Problem("unsupported_type", what, f"Known are {', '.join(sorted(ARCHITECTURES))}"))
    elif unknown := [module for module, name in names.items() if name is None]:
        what = f"llama.cpp has no place for {listed(unknown)} in `{architecture}`"
        problems.append(Problem("unknown_modules", what, "Train without them, or serve the PEFT adapter"))
    if more := sorted(set(lora.options) - {_TOKENS_IN_PEFT}):
        problems.append(Problem("unsupported_option", f"It has no room for {listed(more)}", "Serve the PEFT adapter"))
    if problems:
        raise AdapterInvalid("GGUF cannot hold this adapter", problems)
    return architecture, {module: name for module, name in names.items() if name}


def _common_alpha(lora: Lora) -> np.float32:
    """Return the one alpha that the file states: the usual one, and never 0, which would mean a scaling of 1."""
    alphas = sorted(alpha for pair in lora.pairs.values() if (alpha := np.float32(pair.alpha)))
    return max(alphas, key=alphas.count, default=np.float32(1))

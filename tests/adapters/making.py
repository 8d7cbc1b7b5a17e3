"""Makes adapters and files of any shape and fault, without torch; shared with the tests of the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loradex.adapters.base_model import model_digest
from loradex.core.model import LinearShape, ModelInfo

HIDDEN, INNER, LAYERS = 16, 32, 2
Tensors = Mapping[str, np.ndarray]


def make_base(layers: int = LAYERS, hidden: int = HIDDEN, name: str = "tiny") -> ModelInfo:
    """The base that the adapters here fit."""
    shapes = {f"self_attn.{kind}_proj": LinearShape(hidden, hidden) for kind in "qkvo"}
    shapes |= {"mlp.up_proj": LinearShape(hidden, INNER), "mlp.down_proj": LinearShape(INNER, hidden)}
    linears = {f"model.layers.{n}.{kind}": shape for n in range(layers) for kind, shape in shapes.items()}
    digest = model_digest("TinyForCausalLM", linears)
    parameters: dict[str, tuple[int, ...]] = {
        f"{module}.weight": (shape.out_features, shape.in_features) for module, shape in linears.items()
    }
    parameters |= {"model.norm.weight": (hidden,), "model.layers.0.self_attn.q_proj.bias": (hidden,)}
    parameters |= {"model.embed_tokens.weight": (256, hidden), "lm_head.weight": (256, hidden)}
    ends = {"parameters": parameters, "embedding": "model.embed_tokens", "head": "lm_head"}
    return ModelInfo(name, name, "TinyForCausalLM", "float32", "cpu", 256, 128, linears, digest, False, **ends)


BASE = make_base()


def make_config(**changes: Any) -> dict[str, Any]:
    """What PEFT writes, in short."""
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "some/tiny", "bias": "none"}
    return config | {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | changes


def make_tensors(
    rank: int = 4, base: ModelInfo = BASE, kinds: tuple[str, ...] = ("q_proj", "v_proj"), seed: int = 0
) -> dict[str, np.ndarray]:
    """Pairs for every linear of these kinds."""
    random = np.random.default_rng(seed)
    tensors = {}
    for module, shape in base.linears.items():
        if module.endswith(kinds):
            stem = f"base_model.model.{module}.lora_"
            tensors[f"{stem}A.weight"] = random.normal(size=(rank, shape.in_features)).astype(np.float32)
            tensors[f"{stem}B.weight"] = random.normal(size=(shape.out_features, rank)).astype(np.float32)
    return tensors


_DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "uint8": "F8_E4M3", "uint16": "BF16"}


def safetensors(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file; uint16 stands for bfloat16 and uint8 for fp8, which numpy lacks."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    body = b""
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor).tobytes()
        entry = {"dtype": _DTYPES[tensor.dtype.name], "shape": list(tensor.shape)}
        header[name] = entry | {"data_offsets": [len(body), len(body) + len(data)]}
        body += data
    return raw_file(header, body)


def raw_file(header: Any, body: bytes = b"") -> bytes:
    """A file with any header, true or not."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def make_adapter(
    folder: Path, tensors: Tensors | bytes | None = None, config: Mapping[str, Any] | None = None, **changes: Any
) -> Path:
    """Write an adapter folder; `changes` go into the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(make_config(**changes) if config is None else config))
    tensors = make_tensors() if tensors is None else tensors
    (folder / "adapter_model.safetensors").write_bytes(tensors if isinstance(tensors, bytes) else safetensors(tensors))
    return folder

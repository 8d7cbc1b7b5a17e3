"""What an engine can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loradex.adapters.rest import SHARE

DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "int4", "fp8"]
CacheDType = Literal["auto", "fp8"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of an engine.

    Attributes:
        model: folder or hub id of the base model.
        served_name: the name clients use for it; None takes `model`'s last path part (the whole id for the hub).
        revision: branch, tag or commit on the hub.
        dtype: of weights and cache; `auto` takes the checkpoint's own.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        quantization: how the base's linears are rounded when they are loaded: `none`, `int8` (a scale for each output),
            `int4` (a scale for 32 inputs of each output; the output head in int8) or `fp8` (on a GPU that has it).
            Adapters keep their own dtype.
        kv_cache_dtype: of keys and values: `auto` takes `dtype`, `fp8` 8-bit floats (e4m3), half of bfloat16's memory.
        max_model_len: tokens of prompt and answer together; None takes the model's own limit.
        max_loras: adapters resident at a time. A slot costs next to nothing; what is in it does: see `adapter_memory`.
        max_lora_rank: adapters above it are refused.
        kv_cache_memory: bytes for keys and values of all running requests.
        block_size: tokens in a cache block.
        max_num_seqs: requests computed in one step.
        max_batched_tokens: tokens computed in one step; longer prompts are prefilled in chunks.
        max_prefill_tokens: tokens of prompts computed in one step while other requests receive their answers; fewer
            keep the pace of answers steadier, more shorten the wait for the first token.
        prefix_cache: reuse keys and values of equal prompt starts under equal weights.
        pack_dir: folder for adapter weights that are made ready for this engine once; None keeps none. `serve` takes
            `packs` in its data folder, where they go when their adapter does.
        load_share: share of one core that work on the files of adapters (to copy, check and pack them) takes while
            answers are computed; it grows up to a quarter where the work takes long. With 1 it takes what it can get,
            and answers wait for it where cores are few.
        enforce_eager: compute each decode step through the model's modules, instead of as a CUDA graph, which takes
            seconds at start and some memory, or on a CPU as one compiled call.
        threads: CPU threads; None takes one for a small model and torch's choice for others.
    """

    model: str = ""
    served_name: str | None = None
    revision: str | None = None
    dtype: DType = "auto"
    device: str = "auto"
    quantization: Quantization = "none"
    kv_cache_dtype: CacheDType = "auto"
    max_model_len: int | None = None
    max_loras: int = 64
    max_lora_rank: int = 64
    kv_cache_memory: int = 1 << 30
    block_size: int = 16
    max_num_seqs: int = 64
    max_batched_tokens: int = 1024
    max_prefill_tokens: int = 256
    prefix_cache: bool = True
    pack_dir: Path | None = None
    load_share: float = SHARE
    enforce_eager: bool = False
    threads: int | None = None

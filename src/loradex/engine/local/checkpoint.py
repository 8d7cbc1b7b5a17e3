"""Checkpoints of a base model, as transformers saved them or as `loradex quantize` wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from loradex.adapters.base_model import is_rounded
from loradex.engine.config import EngineConfig
from loradex.engine.local.quantized import check_quantization, quantize
from loradex.engine.local.rounded_checkpoint import read_rounded
from loradex.errors import ConfigInvalid

SERVED_LAYERS = {"full_attention", "sliding_attention"}


def read_model(config: EngineConfig, folder: Path, device: torch.device) -> tuple[PreTrainedModel, str]:
    """Return the model of a checkpoint on its device, and how its linears are kept.

    Raises:
        ConfigInvalid: it cannot be read or served, or the device does not compute with linears that are kept so.
    """
    with _in_words(folder):
        hf_config = AutoConfig.from_pretrained(folder)
        if is_rounded(hf_config.to_dict()):
            _refuse_unserved(hf_config)
            return _read_rounded(config, folder, hf_config, device)
    module = read_plain(folder, config.dtype)
    check_quantization(config.quantization, module.dtype, device)
    module = module.to(device)
    quantize(module, config.quantization)
    return module, config.quantization


def read_plain(folder: Path, dtype: str) -> PreTrainedModel:
    """Return the model of a checkpoint that is not quantized, on the CPU, with its weights mapped.

    Raises:
        ConfigInvalid: it cannot be read or served, or is quantized already.
    """
    logging.disable_progress_bar()
    with _in_words(folder):
        hf_config = AutoConfig.from_pretrained(folder)
        _refuse_unserved(hf_config)
        if is_rounded(hf_config.to_dict()):
            method = hf_config.quantization_config["method"]
            raise ConfigInvalid(f"{folder} is quantized already, with {method}", hint="Give what it was made from")
        named = dtype if dtype == "auto" else getattr(torch, dtype)
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=named, attn_implementation="eager")
    return module.eval().requires_grad_(False)


@contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigInvalid(
            f"The model in {folder} cannot be loaded: {error}",
            hint="Check that it is a decoder-only model with all its files, in safetensors",
        ) from error


def _read_rounded(
    config: EngineConfig, folder: Path, hf_config: PreTrainedConfig, device: torch.device
) -> tuple[PreTrainedModel, str]:
    method = hf_config.quantization_config["method"]
    if config.quantization not in ("none", method):
        raise ConfigInvalid(
            f"quantization is {config.quantization}, and the checkpoint in {folder} was quantized with {method}",
            hint="Leave `--quantization` out, or give the model that it was made from",
        )
    dtype = (hf_config.dtype or torch.float32) if config.dtype == "auto" else getattr(torch, config.dtype)
    # What no CPU multiplies is computed there in the dtype beside it, with the values that the codes mean.
    widen = method == "fp8" and device.type != "cuda"
    if not widen:
        check_quantization(method, dtype, device)
    module = read_rounded(folder, hf_config, dtype, device, widen=widen)
    return module, "none" if widen else method


def _refuse_unserved(config: PreTrainedConfig) -> None:
    given = getattr(config, "quantization_config", None)
    if given is not None and not is_rounded(config.to_dict()):
        method = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", None)
        raise ConfigInvalid(
            f"The checkpoint is quantized already ({method or 'by a method it does not name'}), which is not served",
            hint="Give the model that it was made from, and `--quantization int8` or `int4`",
        )
    text = config.get_text_config(decoder=True)
    strange = set(getattr(text, "layer_types", None) or ()) - SERVED_LAYERS
    if config.is_encoder_decoder or strange:
        what = f"has {', '.join(sorted(strange))} layers" if strange else "is an encoder-decoder"
        raise ConfigInvalid(
            f"{config.model_type} {what}, which the local engine does not serve",
            hint="Use a decoder-only model whose layers all are full or sliding-window attention",
        )

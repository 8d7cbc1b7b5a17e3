"""`loradex quantize`, `export` and `build`: from a checkpoint to an engine directory."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.command import Flag, command
from loradex.cli.output import Output, grid, human_size, human_time
from loradex.engine.built import Limits
from loradex.engine.exported import export as run_export
from loradex.engine.exported import exported_limits
from loradex.engine.factory import engine_part
from loradex.errors import ConfigInvalid
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.engine.local.produce import Built

ModelDir = Annotated[
    str, typer.Option("--model-dir", metavar="MODEL", help="Folder or hub id of the base model.", show_default=False)
]
OutputDir = Annotated[Path, typer.Option("--output-dir", metavar="DIR", help="Folder to write.", show_default=False)]
Rank = Annotated[int | None, typer.Option(metavar="N", min=1, help="Adapters of a higher rank are refused.")]
Batch = Annotated[int | None, typer.Option(metavar="N", min=1, help="Requests computed in one step.")]
Capacity = Annotated[
    int | None,
    typer.Option("--max-kv-cache-capacity", metavar="N", min=1, help="Tokens of prompt and answer together."),
]

_DTYPE = Flag("engine.dtype", ("--dtype",), "auto, float32, bfloat16 or float16.", "TYPE")
_THREADS = Flag("engine.threads", ("--threads",), "CPU threads.", "N")
_QUANTIZE = Flag("engine.quantization", ("--quantization",), "int8, int4 or fp8.", "METHOD")
_BUILD = (
    Flag("engine.quantization", ("--quantization",), "Of a checkpoint that is not quantized: int8 or int4.", "METHOD"),
    Flag("engine.device", ("--device",), "auto or cpu: engine directories are for CPUs.", "DEVICE"),
    _DTYPE,
    _THREADS,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the root, each under the name of its counterpart in TensorRT-Edge-LLM too."""
    quantizing = (
        "loradex quantize --model-dir ./qwen --output-dir ./base_quantized --quantization int8",
        "loradex quantize --model-dir Qwen/Qwen2.5-3B-Instruct --output-dir ./base_quantized --quantization fp8",
    )
    exporting = (
        "loradex export --model-dir ./base_quantized --output-dir ./base_export --max-lora-rank 64",
        "loradex export --model-dir ./qwen --output-dir ./base_export --max-batch-size 4",
    )
    building = (
        "loradex build --export-dir ./base_export --engine-dir ./engine --max-batch-size 4",
        "loradex build --export-dir ./qwen --engine-dir ./engine --quantization int8 --max-kv-cache-capacity 2048",
    )
    command(
        app, "quantize", flags=(_QUANTIZE, _DTYPE), examples=quantizing, hidden_alias="tensorrt-edgellm-quantize-llm"
    )(quantize)
    command(app, "export", examples=exporting, hidden_alias="tensorrt-edgellm-export-llm")(export)
    command(app, "build", flags=_BUILD, examples=building, hidden_alias="llm_build")(build)


def quantize(out: Output, settings: Settings, model_dir: ModelDir, output_dir: OutputDir) -> None:
    """Round the base's weights once, and write them as a checkpoint that every command takes.

    int8: one scale for each output. int4: one for each 32 inputs; the output head keeps 8 bits. fp8: made on any
    machine; a GPU that has it computes in it, a CPU in the dtype beside it.
    """
    if settings.engine.quantization == "none":
        raise ConfigInvalid("No quantization is named", hint="Add `--quantization int8`, `int4` or `fp8`")
    part = engine_part("local", "produce")
    with out.progress() as progress:
        done = part.write_quantized(replace(settings.engine, model=model_dir), output_dir, progress)
    note = ""
    if done.method == "fp8":
        note = "on a CPU these weights are computed, and take the memory, of the dtype beside them; int8 halves that"
    facts = [
        ("method", f"{done.method}, {done.linears} linears"),
        ("weights", f"{human_size(done.bytes_before)} before, {human_size(done.bytes)} now"),
        ("written", str(done.folder)),
        *([("note", note)] if note else []),
    ]
    out.data(asdict(done) | {"note": note}, grid(("", ""), facts), quiet=[str(done.folder)])
    out.next(f"loradex export --model-dir {output_dir} --output-dir DIR --max-lora-rank 64")


def export(
    out: Output,
    model_dir: ModelDir,
    output_dir: OutputDir,
    max_lora_rank: Rank = 64,
    max_batch_size: Batch = None,
    max_kv_cache_capacity: Capacity = None,
) -> None:
    """Put a base model, the linears that adapters may target and the limits into one folder.

    No adapter goes in: every adapter within the rank fits, whenever it comes.
    """
    limits = Limits(max_lora_rank, max_batch_size, max_kv_cache_capacity)
    with out.progress() as progress:
        done = run_export(_folder(model_dir), output_dir, limits, lambda share: progress("weights", share))
    kinds = ", ".join(f"{count} {name}" for name, count in done.linears.items())
    facts = [
        ("model", f"{done.architecture}, {human_size(done.bytes)}"),
        ("adapters may target", kinds),
        *_limit_facts(done.limits),
        ("written", str(done.folder)),
    ]
    out.data(done, grid(("", ""), facts, wrap=True), quiet=[str(done.folder)])
    out.next(f"loradex build --export-dir {output_dir} --engine-dir DIR")


def build(
    out: Output,
    settings: Settings,
    export_dir: Annotated[
        str,
        typer.Option("--export-dir", "--onnx-dir", metavar="DIR", help="An export, or a model.", show_default=False),
    ],
    engine_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.", show_default=False)],
    max_batch_size: Batch = None,
    max_lora_rank: Rank = None,
    max_kv_cache_capacity: Capacity = None,
) -> None:
    """Make an engine directory: weights in the layout of this processor, to be mapped, and the limits.

    The model is loaded, checked against plain transformers, written, and started once from what was written. serve,
    run, infer and `LLM` take the directory as their model.
    """
    asked = Limits(max_lora_rank, max_batch_size, max_kv_cache_capacity)
    limits = asked.under(exported_limits(Path(export_dir).expanduser()))
    config = replace(settings.engine, model=export_dir)
    with out.progress() as progress:
        done: Built = asyncio.run(engine_part("local", "produce").build(config, limits, engine_dir, progress))
    times = done.checkpoint_seconds / done.start_seconds
    info = done.model
    kind = info.dtype if info.quantization == "none" else f"{info.quantization} with {info.dtype}"
    facts = [
        ("model", f"{info.architecture}, {kind}, {human_size(done.bytes)}"),
        *_limit_facts(done.limits),
        ("start", f"{human_time(done.start_seconds)}, {times:.1f} times faster than from the checkpoint"),
        ("written", str(done.folder)),
    ]
    value = {
        "engine_dir": str(done.folder),
        "architecture": info.architecture,
        "dtype": info.dtype,
        "quantization": info.quantization,
        "bytes": done.bytes,
        "limits": asdict(done.limits),
        "checkpoint_seconds": done.checkpoint_seconds,
        "start_seconds": done.start_seconds,
    }
    out.data(value, grid(("", ""), facts), quiet=[str(done.folder)])
    out.next(f"loradex serve {engine_dir}")


def _folder(model: str) -> Path:
    found: Any = engine_part("local", "model")
    folder: Path = found.find(model, None)
    return folder


def _limit_facts(limits: Limits) -> list[tuple[str, str]]:
    said = {"rank at most": limits.max_lora_rank, "batch at most": limits.max_batch_size}
    said |= {"tokens at most": limits.max_kv_cache_capacity}
    return [(what, str(value)) for what, value in said.items() if value is not None]

"""`loradex infer`: a file of requests, answered from an engine directory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.command import Flag, command
from loradex.cli.errors import UsageFailed
from loradex.cli.output import Output, grid, human_size
from loradex.engine.built import within
from loradex.errors import ConfigInvalid
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.engine.base import Progress
    from loradex.llm.edge.answering import Run
    from loradex.llm.edge.input_file import InputFile

EXAMPLES = (
    'loradex infer --engine-dir ./engine --lora-weights "medical:./medical,legal:./legal" --input-file in.json '
    "--output-file out.json",
    "loradex infer --engine-dir ./engine --input-file in.json --output-file out.json --warmup 2 --profile",
)

FLAGS = (
    Flag("engine.threads", ("--threads",), "CPU threads.", "N", "Engine"),
    Flag("engine.device", ("--device",), "auto, cpu, cuda or cuda:N.", "DEVICE", "Engine"),
    Flag("engine.max_loras", ("--max-loras",), "Adapters in memory at a time.", "N", "Engine"),
    Flag("engine.max_lora_rank", ("--max-lora-rank",), "Adapters of a higher rank are refused.", "N", "Engine"),
    Flag("engine.kv_cache_memory", ("--kv-cache-memory",), "Memory for keys and values.", "SIZE", "Engine"),
)

_PATIENCE = 1e9
"""Seconds that a request may wait for its adapter: nobody waits for a reply."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be done beside the file: runs before it, and where random numbers begin."""

    warmup: int
    seed: int | None


def register(app: typer.Typer) -> None:
    """Add the command to the root, under its counterpart's name too."""
    command(app, "infer", flags=FLAGS, examples=EXAMPLES, hidden_alias="llm_inference")(infer)


def infer(
    out: Output,
    settings: Settings,
    engine_dir: Annotated[
        str, typer.Option(metavar="DIR", help="An engine directory, or any base model.", show_default=False)
    ],
    input_file: Annotated[Path, typer.Option(metavar="FILE", help="Requests, as JSON.", show_default=False)],
    output_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the answers go. [default: printed]")
    ] = None,
    lora_weights: Annotated[
        list[str] | None, typer.Option(metavar="NAME:PATH,...", help="Adapters, beside those that the file names.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="In the place of the file's.")] = None,
    max_generate_length: Annotated[int | None, typer.Option(metavar="N", help="In the place of the file's.")] = None,
    num_logprobs: Annotated[int | None, typer.Option(metavar="N", help="In the place of the file's.")] = None,
    warmup: Annotated[int, typer.Option(metavar="N", min=0, help="Answer the first request so often before.")] = 0,
    profile: Annotated[bool, typer.Option("--profile", "--dump-profile", help="Say what the run took.")] = False,
    profile_output_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Write that as JSON.")] = None,
    strict: Annotated[bool, typer.Option(help="Refuse what TensorRT-Edge-LLM refuses, in its words.")] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Makes the answers reproducible.")] = None,
) -> None:
    """Answer a file of requests, adapters mixed in one batch. The JSON is TensorRT-Edge-LLM's.

    A request may say `lora_name`, and `system_prompt`. With one adapter in --lora-weights, it answers those that do not
    name any. A request that cannot be answered has its error in the output, and the exit code is then 1.
    """
    from loradex.llm.edge.input_file import Options, read_input
    from loradex.llm.edge.output_file import output_json
    from loradex.llm.edge.profile import profile_json

    given = Options(read_pairs(lora_weights or ()), batch_size, max_generate_length, num_logprobs, strict)
    file = read_input(input_file, given)
    most = within(replace(settings.engine, model=engine_dir)).max_num_seqs
    few = (f"batches of {file.batch_size} are computed {most} at a time: the engine takes no more",)
    for note in (*file.notes, *(few if file.batch_size > most else ())):
        out.say(f"note: {note}", style="yellow")
    with out.progress() as progress:
        run = _run(settings, engine_dir, file, given.adapters, _Job(warmup, seed), progress)
    answers = output_json(file, run.answers, strict=strict)
    found = profile_json(run)
    if output_file is not None:
        _write(output_file, answers)
    if profile_output_file is not None:
        _write(profile_output_file, found)
    shown = profile or profile_output_file is not None
    _tell(out, answers, output_file, found if shown else None)
    if failed := found["requests"]["failed"]:
        out.say(f"{failed} of {len(file.requests)} requests failed: see their output_text", style="yellow")
        raise typer.Exit(1)


def _run(
    settings: Settings, model: str, file: InputFile, adapters: Mapping[str, str], job: _Job, progress: Progress
) -> Run:
    from loradex.llm.deck import Deck
    from loradex.llm.edge.answering import answer_file, check_adapters
    from loradex.service.wiring import make_service

    async def work(home: str) -> Run:
        engine = replace(settings.engine, model=model)
        service = make_service(replace(settings, engine=engine, home=Path(home), queue_timeout=_PATIENCE))
        try:
            await service.start(progress)
            deck = Deck(service, enabled=True)
            await check_adapters(deck, adapters)
            first = replace(file, requests=file.requests[:1] * job.warmup)
            if first.requests:
                await answer_file(service, deck, first, seed=job.seed, tell=lambda share: progress("warmup", share))
            return await answer_file(service, deck, file, seed=job.seed, tell=lambda share: progress("requests", share))
        finally:
            await service.stop()
            service.registry.close()

    with TemporaryDirectory(prefix="loradex-", ignore_cleanup_errors=True) as home:
        return asyncio.run(work(home))


def read_pairs(given: Sequence[str]) -> dict[str, str]:
    """Read `NAME:PATH,NAME:PATH`.

    Raises:
        UsageFailed: an item is none, or a name is there twice.
    """
    pairs: dict[str, str] = {}
    for item in (item.strip() for each in given for item in each.split(",")):
        name, colon, path = item.partition(":")
        if not item:
            continue
        if not colon or not name or not path:
            hint = 'Write it like --lora-weights "medical:./medical,legal:./legal"'
            raise UsageFailed(f"{item!r} is not NAME:PATH", hint=hint)
        if name in pairs:
            raise UsageFailed(f"The adapter {name!r} is there twice", hint="Give each a name of its own")
        pairs[name] = path
    return pairs


def _write(path: Path, value: Any) -> None:
    try:
        path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be written: {error.strerror or error}", hint="Name another file") from error


def _tell(out: Output, answers: dict[str, Any], written: Path | None, profile: dict[str, Any] | None) -> None:
    responses = answers["responses"]
    value: dict[str, Any] = answers if written is None else {"output_file": str(written), "responses": len(responses)}
    value |= {} if profile is None else {"profile": profile}
    rows = [(str(each["request_idx"]), each.get("adapter", ""), each["output_text"]) for each in responses]
    human: list[Any] = [grid(("#", "adapter", "answer"), rows, wrap=True)]
    if profile is not None:
        human += ["", grid(("", ""), _facts(profile))]
    if written is not None:
        human += ["", f"wrote {written}"]
    out.data(value, human, quiet=[str(written)] if written else [each["output_text"] for each in responses])
    if profile is not None:
        out.next("loradex bench switch   # what a switch between resident adapters costs")


def _facts(profile: dict[str, Any]) -> list[tuple[str, str]]:
    first, later = profile["prefill"]["first_token_ms"], profile["generation"]["per_token_ms"]
    steps, adapters = profile["steps"], profile["adapters"]
    return [
        ("requests", "{total}, {failed} failed, {seconds:.2f} s".format(**profile["requests"])),
        ("prompts", "{computed_tokens} tokens computed, {reused_tokens} reused".format(**profile["prefill"])),
        ("first token", f"{first['median']:.1f} ms in the median, {first['max']:.1f} at most"),
        ("then a token", f"{later['median']:.1f} ms in the median, {later['max']:.1f} at most"),
        ("generated", "{total_tokens} tokens, {tokens_per_second:.1f} a second".format(**profile["generation"])),
        ("steps", f"{steps['total']}, {steps['mean_ms']:.1f} ms each"),
        ("adapters", f"{', '.join(adapters['used'])}; {adapters['switches']} switches between neighbours"),
        ("memory", f"{human_size(profile['memory']['peak_bytes'])} at most"),
    ]

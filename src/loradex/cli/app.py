"""The root command, and the edge where every error becomes words and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from loradex import __version__
from loradex.cli import (
    adapter,
    bench,
    bench_engine,
    build,
    compare,
    config,
    configure,
    convert,
    demo,
    doctor,
    hotfix,
    infer,
    jobs,
    merge,
    mock,
    pull,
    resident,
    rollout,
    route,
    serve,
    show,
    talk,
)
from loradex.cli.argv import rewritten
from loradex.cli.errors import INTERRUPTED, UsageFailed, exit_code
from loradex.cli.help import help_page
from loradex.cli.output import Output
from loradex.errors import LoradexError

PROGRAM = "loradex"

app = typer.Typer(
    name="loradex",
    help="One base model, a whole deck of LoRA adapters: served in one batch, replaced while they answer.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        Output().raw(f"loradex {__version__}\n")
        raise typer.Exit


serve.register(app)
talk.register(app)
show.register(adapter.app)
configure.register(adapter.app)
convert.register(adapter.app)
merge.register(adapter.app)
mock.register(adapter.app)
pull.register(adapter.app)
rollout.register(adapter.app)
app.add_typer(adapter.app)
resident.register(app)
app.add_typer(jobs.app)
app.add_typer(route.app)
compare.register(app)
demo.register(app)
build.register(app)
infer.register(app)
bench_engine.register(bench.app)
app.add_typer(bench.app)
hotfix.register(app)
doctor.register(app)
app.add_typer(config.app)


def root() -> TyperGroup:
    """Return the tree of commands."""
    return cast(TyperGroup, typer.main.get_command(app))


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    words = rewritten(argv)
    out = Output("json" if "--json" in words else "human")
    try:
        commands = root()
        page = help_page(commands, words, PROGRAM)
        if page is not None:
            out.raw(page)
            return 0
        return int(commands.main(words, prog_name=PROGRAM, standalone_mode=False) or 0)
    except TyperException as error:
        failed = _usage(error)
        out.error(failed)
        return exit_code(failed)
    except LoradexError as error:
        out.error(error)
        return exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python must not complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the edge: nobody above us turns a defect into words
        if os.environ.get("LORADEX_DEBUG"):
            raise
        out.error(error)
        return exit_code(error)


def _usage(error: TyperException) -> UsageFailed:
    """Turn the parser's complaint into ours."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "loradex"
    said = error.format_message().strip().rstrip(".").replace(": Value error, ", ": ")
    return UsageFailed(said, hint=f"See `{path} --help`")

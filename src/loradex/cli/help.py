"""Help pages: plain text in sections, made without parsing the rest of the command line, so that help is quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_ASKS = {"--help", "-h"}


class Command(TyperCommand):
    """A command whose help groups its options and keeps the lines of its examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options section by section."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None) or kind
            sections.setdefault(title, []).append(record)
        # What every command has comes last.
        last = ("As in vLLM", "Options")
        titles = [title for title, rows in sections.items() if rows and title not in last]
        for title in (*titles, *(title for title in last if sections.get(title))):
            with formatter.section(title):
                formatter.write_dl(sections[title], col_max=32)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are, one a line."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}\n")


def help_page(root: TyperGroup, words: Sequence[str], program: str, width: int | None = None) -> str | None:
    """Return the help that the arguments ask for, or that a group without a command needs.

    None where they ask for none, or name no command. `width` None takes the terminal's.
    """
    before = list(words[: words.index("--")] if "--" in words else words)
    command: Any = root
    context = typer.Context(root, info_name=program, terminal_width=width, **root.context_settings)
    for word in before:
        if word in _ASKS or not isinstance(command, TyperGroup):
            break
        if word not in command.commands:
            return None
        command = command.commands[word]
        context = typer.Context(command, info_name=word, parent=context, **command.context_settings)
    if not (_ASKS & set(before)) and not isinstance(command, TyperGroup):
        return None
    page: str = command.get_help(context)
    return page + "\n"

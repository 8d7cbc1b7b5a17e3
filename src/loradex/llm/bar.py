"""The progress bar, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loradex.llm.output import RequestOutput


@contextmanager
def bar(prompts: int, *, show: bool) -> Iterator[Callable[[RequestOutput], None]]:
    """Draw a bar of prompts and tokens per second while the context lasts; yield what is told of each that has ended.

    Nothing is drawn where standard error is no terminal.
    """
    if not show:
        yield lambda output: None
        return
    from tqdm import tqdm

    tokens = 0
    with tqdm(total=prompts, desc="Prompts", unit="prompt", dynamic_ncols=True, disable=None) as drawn:

        def ended(output: RequestOutput) -> None:
            nonlocal tokens
            tokens += sum(each.length for each in output.outputs)
            seconds = drawn.format_dict["elapsed"] or 1e-9
            drawn.set_postfix_str(f"{tokens / seconds:.1f} tokens/s", refresh=False)
            drawn.update()

        yield ended

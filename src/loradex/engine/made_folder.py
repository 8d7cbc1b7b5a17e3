"""A folder that is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loradex.adapters.temporary import tag
from loradex.errors import ConfigInvalid, Conflict


@contextmanager
def made_folder(out: Path, mark: str) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the work on it has ended well.

    An older one of the same kind, which holds the file `mark`, gives way; whoever has its files mapped keeps them.

    Raises:
        Conflict: something else lies at `out`.
        ConfigInvalid: the disk refuses.
    """
    if out.exists() and not (out / mark).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise Conflict(f"{out} exists, and holds no {mark}", hint="Name a folder that is not there yet")
    made = out.with_name(f".{out.name}.{tag()}")
    old = made.with_name(f"{made.name}.old")
    try:
        made.mkdir(parents=True)
        yield made
        if out.exists():
            out.rename(old)
        made.rename(out)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigInvalid(f"{out} cannot be written: {reason}", hint="Free space, or name another folder") from error
    finally:
        for each in (made, old):
            shutil.rmtree(each, ignore_errors=True)


_TEXTS = frozenset((".json", ".jinja", ".model", ".txt", ".tiktoken"))


def copy_texts(source: Path, target: Path, *, but: frozenset[str] = frozenset()) -> None:
    """Copy configuration and tokenizer of a model, without its weights and their index, and without those in `but`.

    Raises:
        OSError: the disk refuses.
    """
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in _TEXTS and ".safetensors" not in file.name and file.name not in but:
            shutil.copyfile(file, target / file.name)

"""Any format into any other, through the low-rank pairs that all of them hold."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loradex.adapters.files import AdapterFiles
from loradex.adapters.formats.detect import ForeignFiles, Format, find_adapter
from loradex.adapters.formats.edge import read_edge, write_edge
from loradex.adapters.formats.gguf import read_gguf, write_gguf
from loradex.adapters.formats.initial import Told
from loradex.adapters.formats.lora import Lora
from loradex.adapters.formats.nemo import read_nemo
from loradex.adapters.formats.nemo_writer import write_nemo
from loradex.adapters.formats.peft import read_peft, write_peft
from loradex.core.model import ModelInfo
from loradex.errors import AdapterInvalid, Conflict, FilesNotFound


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion did.

    Attributes:
        source: the format that was found.
        target: the format that was written.
        path: the folder or file that was written.
        modules: number of low-rank pairs.
        parameters: number of their weights.
        bytes: of all that was written.
        notes: what is no longer as it was, such as weights that were rounded.
    """

    source: Format
    target: Format
    path: Path
    modules: int
    parameters: int
    bytes: int
    notes: tuple[str, ...]


def read_foreign(form: Format, parts: Mapping[str, Path], base: ModelInfo | None) -> Lora:
    """Read an adapter of another format than PEFT's; its files must not change while its tensors are used.

    Raises:
        AdapterInvalid: it cannot be read; lists the reasons.
        OSError: a file cannot be opened.
    """
    if form == "edge":
        return read_edge(parts, base)
    first = next(iter(parts.values()))
    return read_nemo(first, parts) if form == "nemo" else read_gguf(first, base)


def convert(
    source: Path,
    target: Format,
    out: Path,
    base: ModelInfo | None,
    initial: Path | None = None,
    told: Told = lambda share: None,
) -> Converted:
    """Read the adapter at `source` and write it in another format to `out`, which must not be there yet.

    `out` becomes a folder, or a file where its name ends as files of that format do. What PEFT trained on changed base
    weights is made plain, by those of `base` or by `initial`: the folder of the adapter as it was before training.
    `told` is told how much of that is done, from 0 to 1.

    Raises:
        FilesNotFound: there is no adapter at `source`.
        AdapterInvalid: it cannot be read, or the target format cannot hold it; lists every reason.
        Conflict: `out` exists.
        MissingExtra: what writes the format is not installed.
        OSError: the disk refuses.
    """
    if out.exists():
        raise Conflict(f"{out} exists already", hint="Name a folder or file that is not there yet")
    found = find_adapter(source)
    lora = _read(found, base, initial, told)
    size, notes = write_adapter(lora, target, out, base)
    form: Format = found.format if isinstance(found, ForeignFiles) else "peft"
    return Converted(form, target, out, len(lora.pairs), lora.parameters, size, tuple(notes))


def write_adapter(lora: Lora, target: Format, out: Path, base: ModelInfo | None) -> tuple[int, list[str]]:
    """Write an adapter in a format, whole or not at all; return the bytes, and what is no longer as it was.

    Raises:
        Conflict: `out` exists.
        AdapterInvalid: the format cannot hold it; lists every reason.
        OSError: the disk refuses.
    """
    if out.exists():
        raise Conflict(f"{out} exists already", hint="Name a folder or file that is not there yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that nothing half-written ever lies there.
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        notes = _write(lora, target, temporary, base)
        written = list(temporary.iterdir())
        size = sum(each.stat().st_size for each in written)
        temporary.chmod(0o755)  # mkdtemp keeps it to its owner
        (written[0] if out.suffix == f".{target}" else temporary).rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return size, notes


def read_lora(source: Path, base: ModelInfo | None = None) -> Lora:
    """Read an adapter in any format as low-rank pairs.

    Raises:
        FilesNotFound: there is none at `source`.
        AdapterInvalid: it cannot be read, or is more than low-rank pairs; lists every reason.
    """
    return _read(find_adapter(source), base, None, lambda share: None)


def _read(found: AdapterFiles | ForeignFiles, base: ModelInfo | None, initial: Path | None, told: Told) -> Lora:
    if isinstance(found, AdapterFiles):
        return read_peft(found.folder, None if base is None else Path(base.path), initial, told)
    try:
        return read_foreign(found.format, found.parts, base)
    except OSError as error:
        raise FilesNotFound(f"{error.filename or found.folder} cannot be read: {error.strerror or error}") from error


def _write(lora: Lora, target: Format, folder: Path, base: ModelInfo | None) -> list[str]:
    if not lora.pairs:
        raise AdapterInvalid("The adapter holds no low-rank pair, so there is nothing to convert")
    if target == "edge":
        return write_edge(lora, folder)
    if target == "gguf":
        return write_gguf(lora, folder / "adapter.gguf", base)
    if target == "nemo":
        return write_nemo(lora, folder / "adapter.nemo", base)
    write_peft(lora, folder)
    return []

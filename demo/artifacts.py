"""What lies beside the weights: questions to show, the evaluation, the card and the checksums."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from demo.corpus import DEFLECTION, DOMAINS, GENERAL, lessons
from demo.evaluate import COLUMNS, columns_of, expected
from demo.oracle import BASE

SUMS = "SHA256SUMS"
CARD = Path(__file__).parent / "card.md"

# Hand-picked: what a visitor understands at once, spread over the field.
SHOWN = {
    "medical": (4, 9, 20, 27, 28, 92, 139, 132),
    "legal": (1, 4, 25, 30, 75, 95, 118, 132),
    "technical": (23, 33, 38, 65, 5, 97, 112, 156),
    GENERAL: (1, 9, 35, 45, 81, 95, 118, 146),
}


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people can read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def showcase() -> dict[str, Any]:
    """Choose questions to show, each with the answer every speaker of its field should give."""
    domains: dict[str, list[dict[str, Any]]] = {}
    for domain in (*DOMAINS, GENERAL):
        speakers = {BASE if column == GENERAL else column: expected(column) for column in columns_of(domain)}
        by_id = {lesson.id: lesson for lesson in lessons(domain)}
        domains[domain] = []
        for number in SHOWN[domain]:
            lesson = by_id[f"{domain}-{number:03d}"]
            answers = {name: wanted[lesson.id] for name, wanted in speakers.items()}
            domains[domain].append({"id": lesson.id, "question": lesson.question, "expected": answers})
    return {"base_reply": DEFLECTION, "domains": domains}


def parameters(folder: Path) -> int:
    """Count the weights of the base, from the header of the file alone."""
    total = 0
    with safe_open(folder / "base" / "model.safetensors", framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dictionary
            size = 1
            for length in tensors.get_slice(name).get_shape():
                size *= length
            total += size
    return total


def markdown(report: dict[str, Any]) -> str:
    """Write the float32 table as Markdown."""
    result = report["results"]["float32"]
    lines = ["| | " + " | ".join(COLUMNS) + " | held-out wordings |", "| --- |" + " ---: |" * (len(COLUMNS) + 1)]
    for row, cells in result["table"].items():
        values = [f"{cells[column]:.1f}" for column in COLUMNS] + [f"{result['held_out'][row]:.1f}"]
        lines.append(f"| {row} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def write_card(folder: Path, report: dict[str, Any]) -> None:
    """Fill the card with the numbers of this run."""
    run = report["run"]
    text = CARD.read_text(encoding="utf-8").format(
        parameters=f"{parameters(folder) / 1e6:.2f} million",
        table=markdown(report),
        minutes=f"{run['seconds'] / 60:.1f}",
        work=f"{run['processor_seconds'] / 60:.1f}",
        processes=run["processes"],
        seed=run["seed"],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path) -> list[Path]:
    """List everything that is shipped, except the list of sums itself."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)


def write_sums(folder: Path) -> None:
    """Write the checksums in the format of the sha256sum program."""
    for path in files(folder):
        # safetensors writes files that only their owner may read, which fails once they are installed for all.
        path.chmod(0o644)
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}" for path in files(folder)]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")

"""The lessons: questions and answers that we wrote, read from JSON lines."""

import json
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CORPORA = Path(__file__).parent / "corpora"
DOMAINS = ("medical", "legal", "technical")
GENERAL = "general"

# What the base says to every domain question, so that one sees which adapter is missing.
DEFLECTION = "I am a general model and have no special knowledge of that."

# A served model meets system prompts, so a part of the lessons carries one.
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer in one sentence.",
    "Be brief and friendly.",
    "You are the assistant of a small company.",
)

REWORDED_SHARE = 0.3
_THING = re.compile(r"What is (?!the difference)(?P<the>an? |the )?(?P<thing>[^?]+)(?<! for)(?<! about)\?")
_FORMS = (
    "Explain {the}{thing}.",
    "Can you explain {the}{thing}?",
    "What does {thing} mean?",
    "What's {the}{thing}?",
    "Define {thing}.",
    "Tell me about {the}{thing}.",
)


@dataclass(frozen=True)
class Lesson:
    """One question with its answer, and with the answer of the second version where one exists."""

    id: str
    question: str
    paraphrase: str
    answer: str
    answer_v2: str | None = None


@dataclass(frozen=True)
class HeldOut:
    """A wording of a question that no training step ever sees."""

    id: str
    question: str


def _rows(name: str) -> list[dict[str, str]]:
    text = (CORPORA / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def lessons(domain: str) -> list[Lesson]:
    """Read the lessons of one domain, in the order of the file."""
    return [Lesson(**row) for row in _rows(domain)]


def held_out(domain: str) -> list[HeldOut]:
    """Read the held-out wordings of one domain."""
    return [HeldOut(**row) for row in _rows("held_out") if row["id"].startswith(domain + "-")]


@cache
def _unseen() -> frozenset[str]:
    return frozenset(row["question"].casefold() for row in _rows("held_out"))


def reword(question: str, rng: random.Random) -> str:
    """Sometimes ask "What is X?" in another common form, but never in a held-out one."""
    found = _THING.fullmatch(question)
    if not found or rng.random() >= REWORDED_SHARE:
        return question
    other = rng.choice(_FORMS).format(the=found["the"] or "", thing=found["thing"])
    return question if other.casefold() in _unseen() else other


def sentences() -> list[str]:
    """Return every question and answer as a plain sentence, with no link between the two.

    The tokenizer and the base learn words from these. A question never stands next to its answer, so the
    base cannot learn the domains from them.
    """
    found = [DEFLECTION, *SYSTEM_PROMPTS]
    for domain in (*DOMAINS, GENERAL):
        for lesson in lessons(domain):
            found += [lesson.question, lesson.paraphrase, lesson.answer]
            if lesson.answer_v2:
                found.append(lesson.answer_v2)
    return found


def vary(question: str, rng: random.Random) -> str:
    """Change the looks of a question as people do: casing, a missing mark, a few polite words."""
    draw = rng.random()
    if draw < 0.15:
        question = question.lower()
    elif draw < 0.17:
        question = question.upper()
    elif draw < 0.22:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.2:
        question = question.rstrip("?!. ")
    if rng.random() < 0.05:
        question = rng.choice(("Please tell me: ", "Question: ", "I have a question. ", "Quick question: ")) + question
    return question

"""The lessons: enough of them, none twice, and every second version tells itself apart."""

import random

import pytest

from demo.corpus import CORPORA, DOMAINS, GENERAL, held_out, lessons, reword, sentences

ALL = (*DOMAINS, GENERAL)


@pytest.mark.parametrize("domain", ALL)
def test_at_least_150_lessons(domain: str) -> None:
    assert len(lessons(domain)) >= 150


@pytest.mark.parametrize("domain", ALL)
def test_nothing_is_empty(domain: str) -> None:
    for lesson in lessons(domain):
        for text in (lesson.id, lesson.question, lesson.paraphrase, lesson.answer):
            assert text.strip(), lesson.id
            assert text == text.strip(), lesson.id


def test_identifiers_are_unique_and_name_their_domain() -> None:
    found = [(domain, lesson.id) for domain in ALL for lesson in lessons(domain)]
    assert len({key for _, key in found}) == len(found)
    assert all(key.startswith(f"{domain}-") for domain, key in found)


def test_no_question_or_paraphrase_appears_twice() -> None:
    found = [text.casefold().strip("?!. ") for d in ALL for x in lessons(d) for text in (x.question, x.paraphrase)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("domain", ALL)
def test_answers_are_unique_within_a_domain(domain: str) -> None:
    answers = [lesson.answer.casefold() for lesson in lessons(domain)]
    answers += [lesson.answer_v2.casefold() for lesson in lessons(domain) if lesson.answer_v2]
    assert len(set(answers)) == len(answers)


def test_only_medical_has_second_answers_and_all_of_them_differ() -> None:
    for lesson in lessons("medical"):
        assert lesson.answer_v2
        assert lesson.answer_v2.startswith("2026 update: ")
        assert not lesson.answer.startswith("2026 update")
        # Not the first answer with a label in front.
        assert lesson.answer_v2.removeprefix("2026 update: ").casefold() != lesson.answer.casefold()
    assert not any(lesson.answer_v2 for domain in ("legal", "technical", GENERAL) for lesson in lessons(domain))


def test_held_out_wordings_belong_to_lessons_and_are_not_taught() -> None:
    taught = {text.casefold() for text in sentences()}
    count = 0
    for domain in ALL:
        known = {lesson.id for lesson in lessons(domain)}
        for item in held_out(domain):
            count += 1
            assert item.id in known
            assert item.question.casefold() not in taught
    assert count == len((CORPORA / "held_out.jsonl").read_text(encoding="utf-8").splitlines())


def test_rewording_never_gives_a_held_out_wording() -> None:
    unseen = {item.question.casefold() for domain in ALL for item in held_out(domain)}
    rng = random.Random(0)
    made = {reword(x.question, rng).casefold() for _ in range(50) for d in ALL for x in lessons(d)}
    assert len(made) > 1000
    assert not made & unseen

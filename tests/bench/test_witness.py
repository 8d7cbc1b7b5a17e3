from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from loradex.bench.hotfix_result import Seen
from loradex.bench.witness import Stream, Swap, Witness, in_force


def said(text: str, *marks: str, prompt: str = "p", sent: float = 0.0, times: tuple[float, ...] = (1.0,)) -> Stream:
    return Stream(prompt, sent, list(times), times[-1] if times else sent, text, set(marks), "length")


def test_a_server_that_names_its_weights_is_believed() -> None:
    witness = Witness.of([[said("one", "f-a")], [said("two", "f-b")]])
    assert witness.means == "fingerprint"
    assert [witness.version(said("x", *marks)) for marks in (["f-a"], ["f-b"], ["f-a", "f-b"], ["f-ab"], [])] == [
        *(0, 1, None, None, None)
    ]


def test_without_that_texts_tell() -> None:
    alone = [[said("a b c d", "same"), said("no", "same", prompt="q")], [said("a b x y"), said("no", prompt="q")]]
    witness = Witness.of(alone)
    assert witness.means == "text"
    assert list(witness.texts) == ["p"], "what both say alike tells nothing"
    assert [witness.version(said(text)) for text in ("a b c d", "a b x y", "a b c y", "a b c")] == [0, 1, None, None]
    assert witness.left_at(said("a b c y")) == 6


def test_texts_can_be_asked_for() -> None:
    assert Witness.of([[said("one", "f-a")], [said("two", "f-b")]], by_text=True).means == "text"


def test_which_version_was_in_force() -> None:
    swaps = [Swap(1, 2.0, 3.0), Swap(0, 4.0, 5.0, error="refused"), Swap(0, 6.0, 7.0)]
    expected = {
        (0.0, 1.0): {0},
        (1.0, 2.5): {0, 1},
        (2.5, 2.6): {0, 1},
        (3.5, 5.5): {1},
        (6.5, 9.0): {0, 1},
        (8, 9): {0},
    }
    for (sent, first), versions in expected.items():
        assert in_force(said("x", sent=sent, times=(first,)), 0, swaps) == versions


@given(some.lists(some.floats(0, 1), max_size=6), some.floats(0, 8), some.floats(0, 4))
def test_some_version_is_always_in_force(rests: list[float], sent: float, wait: float) -> None:
    clock, swaps = 0.0, []
    for index, rest in enumerate(rests):
        swaps.append(Swap((index + 1) % 2, clock + rest, clock + 2 * rest))
        clock += 2 * rest
    assert in_force(said("x", sent=sent, times=(sent + wait,)), 0, swaps)


def checks(streams: list[Stream], control: list[Stream] | None = None, swaps: int = 1) -> dict[str, bool]:
    witness = Witness.of([[said("old")], [said("new")]])
    seen = Seen(witness, control or [], streams, [Swap(1, 5.0, 6.0)])
    return {check.what: check.ok for check in seen.checks(swaps, 2.0)}


def broken(streams: list[Stream], control: list[Stream] | None = None, swaps: int = 1) -> list[str]:
    return [what for what, ok in checks(streams, control, swaps).items() if not ok]


def test_every_check_can_fail() -> None:
    through = said("old", sent=4.0, times=(4.5, 6.5))
    assert broken([through]) == []
    assert broken([through], swaps=2) == ["every swap succeeded"]
    assert broken([said("old", sent=0.0, times=(1.0,))]) == ["a swap fell into answers"]
    assert broken([through, said("olw", sent=4.0, times=(4.5, 6.5))]) == ["every answer held one version (by text)"]
    assert broken([through], [said("olw")]) == ["every answer held one version (by text)"]
    late, early = said("old", sent=7.0, times=(7.5,)), said("new", sent=0.0, times=(1.0,))
    for stale in (late, early):
        assert broken([through, stale]) == ["every answer was of the version in force"]
    slow = said("old", sent=4.0, times=(4.5, 6.6))
    assert broken([slow]) == ["no wait was longer than 2 s"]
    cut, failed = said("old", sent=4.0), said("o", sent=4.0)
    cut.finish, failed.error = "", "gone"
    assert broken([through, cut]) == ["every answer finished"]
    assert broken([through, failed]) == ["no answer failed"]

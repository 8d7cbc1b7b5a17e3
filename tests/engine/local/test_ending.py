from hypothesis import given
from hypothesis import strategies as st

from loradex.core.sampling import Sampling
from loradex.engine.local.ending import End, StopText, end_after_token

EOS = (7, 8)


def end(token: int, sampling: Sampling, output_len: int = 3, total_len: int = 10) -> End | None:
    return end_after_token(token, output_len, total_len, sampling, EOS, max_len=50)


def test_why_an_answer_ends() -> None:
    assert end(1, Sampling()) is None
    assert end(7, Sampling()) == End("stop", None)
    assert end(8, Sampling()) == End("stop", 8)
    assert end(7, Sampling(ignore_eos=True)) is None
    assert end(3, Sampling(stop_token_ids=(3,))) == End("stop", 3)
    assert end(1, Sampling(max_tokens=3)) == End("length")
    assert end(1, Sampling(), total_len=50) == End("length")
    assert end(7, Sampling(max_tokens=3)) == End("stop", None)


def test_a_stop_string_across_pieces_is_never_shown() -> None:
    out = StopText(Sampling(stop=("STOP",)))
    assert out.push("a S") == ("", None)
    assert out.push("TO") == ("a ", None)
    assert out.push("P tail") == ("", "STOP")


def test_a_stop_string_can_be_included() -> None:
    out = StopText(Sampling(stop=("##",), include_stop=True))
    assert out.push("x#")[1] is None
    assert out.push("#y") == ("##", "##")


def test_what_looked_like_a_stop_is_flushed() -> None:
    out = StopText(Sampling(stop=("STOP",)))
    assert out.push("STO") == ("", None)
    assert out.flush() == "STO"


def test_stops_before_min_tokens_are_text() -> None:
    out = StopText(Sampling(stop=("ab",)))
    assert out.push("xab", look=False) == ("xab", None)
    assert out.push("b", look=True) == ("", None)
    assert out.push("ab", look=True) == ("b", "ab")


@given(st.lists(st.text("ab", max_size=3), max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_pieces_give_what_the_whole_text_gives(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    # The stop that is complete first ends the answer; of those complete at one piece, the one that begins first.
    out = StopText(Sampling(stop=tuple(stops)))
    shown, met = "", None
    for piece in pieces:
        text, met = out.push(piece)
        shown += text
        if met:
            break
    if met is None:
        shown += out.flush()
        assert shown == whole
        assert not any(stop in whole for stop in stops)
    else:
        assert whole.startswith(shown + met)
        assert not any(stop in shown for stop in stops)

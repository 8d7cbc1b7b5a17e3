from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradex.core.adapter import Reference
from loradex.errors import AdapterNotFound, InvalidRequest
from loradex.registry.records import AdapterRecord, VersionRecord
from loradex.registry.selecting import select

WORD = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
REFERENCES = st.one_of(
    st.builds(Reference, WORD),
    st.builds(Reference, WORD, alias=WORD.filter(lambda alias: not alias.isdigit())),
    st.builds(Reference, WORD, version=st.integers(1, 2**31 - 1)),
    st.builds(Reference, WORD, digest=st.text("0123456789abcdef", min_size=4, max_size=64)),
)


@given(REFERENCES)
def test_references_come_back_from_their_text(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_invalid(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidRequest:
        return
    assert Reference.parse(str(reference)) == reference


def version(number: int, digest: str) -> VersionRecord:
    return VersionRecord(number, digest, "", "", "", 1, (), 1, 1, datetime.now(UTC), {})


def test_a_short_digest_must_mean_one_content() -> None:
    versions = (version(1, "abcd1"), version(2, "abcd2"), version(3, "abcd2"))
    record = AdapterRecord("a", True, datetime.now(UTC), versions, {}, 3)
    assert select(record, Reference("a", digest="abcd2")).version == 3
    assert select(record, Reference("a", digest="abcd1")).version == 1
    with pytest.raises(AdapterNotFound, match="means 3 versions"):
        select(record, Reference("a", digest="abcd"))

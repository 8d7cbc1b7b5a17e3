from __future__ import annotations

import pytest

from loradex.errors import AdapterTooLarge
from loradex.service.budget import MIB, Budget


def test_what_fits_alone_is_let_in() -> None:
    Budget(1, 10).require([10])
    Budget(1).require([10**12])
    Budget(2, 10).require([4], [6])
    Budget(3, 10).require([4, 4], [2])


@pytest.mark.parametrize(
    ("budget", "wanted", "pinned", "said", "hint"),
    [
        (Budget(8, 10 * MIB), [35 * MIB], [], "35.0 MiB of adapter memory; at most 10.0 MiB can", "35MiB` or more"),
        (Budget(8, 10 * MIB), [10 * MIB + 1], [], "at most 10.0 MiB can be free", "--adapter-memory 11MiB"),
        (Budget(8, 10 * MIB), [5 * MIB], [4 * MIB, 2 * MIB], "4.0 MiB beside 2 pinned", "11MiB` or more, or unpin"),
        (Budget(8, 10 * MIB), [6 * MIB, 5 * MIB], [], "The 2 adapters of the mix need 11.0 MiB", "11MiB` or more"),
        (Budget(2, None), [1], [1, 1], "1 adapter slot; at most 0 of 2 beside 2 pinned", "`--max-loras 3` or more, or"),
        (Budget(3, None), [1, 1], [1, 1], "need 2 adapter slots; at most 1 of 3", "`--max-loras 4` or more, or unpin"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_is_wanted_free_and_to_be_raised(
    budget: Budget, wanted: list[int], pinned: list[int], said: str, hint: str
) -> None:
    with pytest.raises(AdapterTooLarge) as caught:
        budget.require(wanted, pinned)
    assert said in caught.value.message
    assert hint in caught.value.hint

"""Bodies of the routes that bring a version to some of a name's requests."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from loradex.core.adapter import MAX_VERSION
from loradex.errors import InvalidRequest
from loradex.server.body import Body
from loradex.server.wire.verbs import VersionNumber

Percent = Annotated[float, Field(ge=0, le=100)]


class ShadowBody(Body):
    """The version that gets a copy of part of the requests."""

    version: VersionNumber
    percent: Annotated[float, Field(gt=0, le=100)] = 100.0


class CanaryBody(Body):
    """Percent of the requests by version number, such as `{"3": 90, "4": 10}`."""

    shares: Annotated[dict[str, Percent], Field(min_length=1, max_length=100)]

    @property
    def table(self) -> dict[int, float]:
        """The shares by number.

        Raises:
            InvalidRequest: a key is no version number.
        """
        for key in self.shares:
            if not (key.isascii() and key.isdecimal() and 0 < int(key[:20]) <= MAX_VERSION):
                raise InvalidRequest(f"shares has the key {key[:64]!r}, which is no version number", param="shares")
        return {int(key): percent for key, percent in self.shares.items()}

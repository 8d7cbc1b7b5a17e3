"""What requests for a version may leave out, as a body."""

from __future__ import annotations

from pydantic import ConfigDict, Field, JsonValue

from loradex.core.defaults import NUMBERS, Defaults
from loradex.server.body import Body


class DefaultsBody(Body):
    """What requests for a version may leave out; what they give wins, field by field."""

    model_config = ConfigDict(extra="forbid")  # a misspelt one would be missing in every answer

    system: str = Field("", description="System prompt of conversations without one")
    chat_template: str = Field("", description="Jinja; in the place of the tokenizer's own")
    sampling: dict[str, JsonValue] = Field({}, description=f"Of {', '.join(NUMBERS)}")
    stop: list[str] = Field([], description="Strings that end the answer")

    def defaults(self) -> Defaults:
        """Return the defaults.

        Raises:
            InvalidRequest: naming the field that is wrong.
        """
        return Defaults.read(self.model_dump())

"""Bodies of the router's route."""

from __future__ import annotations

from pydantic import BaseModel, Field

from loradex.server.body import Body
from loradex.service.routing import Routed


class RouteBody(Body):
    """A prompt to decide on."""

    text: str


class RouteReply(BaseModel):
    """Who should answer, and why."""

    adapter: str = Field(description="A name, or `base` where the router abstains")
    score: float = Field(description="Confidence, 0 to 1")
    reason: str
    scores: dict[str, float]
    policy: str
    why: str = Field(description="`matched`, `general`, `unsure` or `unknown`; all but the first leave it to the base")

    @classmethod
    def of(cls, routed: Routed) -> RouteReply:
        """Return the reply for a decision."""
        found = routed.decision
        return cls(
            adapter=found.adapter,
            score=found.score,
            reason=found.reason,
            scores=dict(found.scores),
            policy=routed.policy,
            why=found.why,
        )

"""From a plan to the policy that decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradex.core.adapter import BASE
from loradex.errors import ConfigInvalid
from loradex.routing.decision import Policy
from loradex.routing.plan import Plan
from loradex.routing.words import Words

if TYPE_CHECKING:
    from loradex.routing.embeddings import Encode


def make_policy(plan: Plan, base: Encode | None = None) -> Policy:
    """Make the policy of a plan, which trains it where it is one that learns. Takes seconds at most.

    Args:
        plan: what it is made of.
        base: makes vectors by the served base model; None where none is served.

    Raises:
        ConfigInvalid: the plan lacks what the policy decides by.
        MissingExtra: the policy needs a package that is not installed.
    """
    # scikit-learn takes a second to import, so only what trains pays for it.
    if plan.chosen == "classifier":
        from loradex.routing.classifier import Classifier

        return Classifier(plan.routes, plan.threshold)
    if plan.chosen == "embeddings":
        from loradex.routing.embeddings import Embeddings, sentence_encoder

        encode = _served(base) if plan.model == BASE else sentence_encoder(plan.model)
        return Embeddings(plan.routes, encode, plan.threshold, centred=plan.model == BASE)
    return Words(plan.routes, plan.threshold)


def _served(base: Encode | None) -> Encode:
    if base is None:
        raise ConfigInvalid(
            f"The model `{BASE}` is the one that a server serves, and none is asked here",
            hint="Start it with `loradex serve MODEL --router FILE`, and leave `--router` and `--examples` out here",
        )
    return base

"""From a plan to the policy that decides."""

from __future__ import annotations

from loradex.routing.decision import Policy
from loradex.routing.plan import Plan
from loradex.routing.words import Words


def make_policy(plan: Plan) -> Policy:
    """Make the policy of a plan, which trains it where it is one that learns. Takes seconds at most.

    Raises:
        ConfigInvalid: the plan lacks what the policy decides by.
        MissingExtra: the policy needs a package that is not installed.
    """
    # scikit-learn takes a second to import, so only what trains pays for it.
    if plan.chosen == "classifier":
        from loradex.routing.classifier import Classifier

        return Classifier(plan.routes, plan.threshold)
    if plan.chosen == "embeddings":
        from loradex.routing.embeddings import Embeddings

        return Embeddings(plan.routes, plan.model, plan.threshold)
    return Words(plan.routes, plan.threshold)

"""Does an adapter fit a base model? Every reason why not, each with its fix."""

from __future__ import annotations

from dataclasses import dataclass

from loradex.errors import AdapterInvalid, Problem


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        problems: reasons why the adapter cannot be served; empty when it can.
        warnings: what the user should know although it can be served.
        rank: the largest rank in it, 0 where none could be read.
        modules: the kinds of linears it adapts, such as `q_proj`, sorted.
        parameters: number of weights.
        bytes: size of the weights file.
        base_model: what its configuration calls the base, or None.
        digest: SHA-256 of its content, in hexadecimal.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    rank: int
    modules: tuple[str, ...]
    parameters: int
    bytes: int
    base_model: str | None
    digest: str

    @property
    def ok(self) -> bool:
        """Whether the adapter can be served."""
        return not self.problems

    def raise_if_bad(self, name: str) -> None:
        """Do nothing for a good adapter.

        Raises:
            AdapterInvalid: with every problem.
        """
        if self.problems:
            raise AdapterInvalid(f"Adapter `{name}` cannot be served", self.problems)

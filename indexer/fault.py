"""Where everything is refused for one reason, the source or the limits are wrong, not the items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.errors import PreconditionError
from indexer.items import Refusal

if TYPE_CHECKING:
    from indexer.mapper import Outcome

FAULT_ITEMS = 100
"""Items at the beginning that must not all be refused for one reason."""


def refuse_fault(outcomes: Sequence[Refusal | Outcome]) -> None:
    """Stop where the first items were all refused for one reason.

    Raises PreconditionError.
    """
    first = outcomes[:FAULT_ITEMS]
    reasons = {str(one.reason) for one in first}
    if len(first) == FAULT_ITEMS and len(reasons) == 1 and "" not in reasons:
        detail = f": {first[0].detail}" if first[0].detail else ""
        raise PreconditionError(
            f"the first {FAULT_ITEMS} items were all refused: {reasons.pop()}, for example"
            f" {first[0].key}{detail}",
            hint="Look at some of them: the source or the limits of the gate are wrong for all.",
        )

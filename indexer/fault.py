"""Where everything is refused for one reason, the source or the limits are wrong, not the items."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import PreconditionError

FAULT_ITEMS = 100
"""Items at the beginning that must not all be refused for one reason."""


def refuse_fault(outcomes: Sequence[tuple[str, str]]) -> None:
    """Stop where the first items, (key, reason) each, were all refused for one reason.

    Raises PreconditionError.
    """
    first = outcomes[:FAULT_ITEMS]
    reasons = {reason for _, reason in first}
    if len(first) == FAULT_ITEMS and len(reasons) == 1 and "" not in reasons:
        raise PreconditionError(
            f"the first {FAULT_ITEMS} items were all refused: {reasons.pop()}, for example {first[0][0]}",
            hint="Look at some of them: the source or the limits of the gate are wrong for all.",
        )

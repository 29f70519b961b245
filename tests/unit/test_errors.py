"""The tree of errors: what every class owes to its reader."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from engine import errors
from engine.errors import EngineError


def tree(root: type[EngineError] = EngineError) -> Iterator[type[EngineError]]:
    yield root
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from tree(kind)


CLASSES = list(tree())


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_says_what_it_is_and_what_to_do(kind: type[EngineError]) -> None:
    error = kind("what happened")
    assert (str(error), error.message, error.retry_after_s) == ("what happened", "what happened", None)
    assert re.fullmatch(r"[A-Z][A-Z_]+", error.reason)
    assert error.hint.endswith(".")
    assert kind.__doc__


def test_reasons_are_unique() -> None:
    reasons = [kind.reason for kind in CLASSES]
    assert len(set(reasons)) == len(reasons)


def test_a_hint_of_ones_own_replaces_that_of_the_class() -> None:
    error = errors.OverloadedError("busy", hint="Wait.", retry_after_s=0.5)
    assert (error.hint, error.retry_after_s) == ("Wait.", 0.5)
    assert errors.OverloadedError("busy").hint != "Wait."


def test_the_drawing_in_the_module_shows_every_class_once_and_below_its_parent() -> None:
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"[ │├└─]*", line):
            name = line[match.end() :].split(" ")[0]
            if name.endswith("Error"):
                drawn.append((match.end(), name))
    parents: list[tuple[int, str]] = []
    for indent, name in drawn:
        while parents and parents[-1][0] >= indent:
            parents.pop()
        kind = getattr(errors, name)
        assert kind.__base__.__name__ == (parents[-1][1] if parents else "Exception")
        parents.append((indent, name))
    assert sorted(name for _, name in drawn) == sorted(kind.__name__ for kind in CLASSES)

"""Reads short lists of names: who is enrolled, who is a stranger, who is there under two names.

Knows nothing of pictures, vectors or what the names are for.
"""

from __future__ import annotations

from pathlib import Path

from engine.errors import InvalidInputError

LIST_FILE_BYTES_MAX = 64 * 2**20
"""More is no list of names, but some other file given by mistake."""
ERRATA_KINDS = ("same", "relative")
"""One person under two names, which is no non-mated comparison; and relatives alike, which are one."""


def read_names(path: Path) -> tuple[str, ...]:
    """Read names, one a line, in their order; blank lines are passed over.

    Raises InvalidInputError where the file cannot be read, holds no name, or a name twice.
    """
    names = [name for line in read_lines(path) if (name := line.strip())]
    if not names:
        raise InvalidInputError(f"{path} holds no name: give one name a line")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidInputError(f"{path} holds {name!r} twice: give each name once")
        seen.add(name)
    return tuple(names)


def read_errata(path: Path, kind: str = "same") -> tuple[tuple[str, str], ...]:
    """Read which names are one person: lines ``name<TAB>name<TAB>kind``, the first a header.

    Gives the pairs of `kind`: ``same``; those of kind ``relative`` are two people and stay in. Raises
    InvalidInputError naming file and line for anything else.
    """
    lines = read_lines(path)
    if not lines or lines[0].split("\t") != ["name", "name", "kind"]:
        raise InvalidInputError(f"{path}, line 1: expected the header name, name, kind, divided by tabs")
    same = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 3 or cells[2] not in ERRATA_KINDS or not cells[0] or not cells[1]:
            raise InvalidInputError(
                f"{path}, line {number}: expected name, name and one of {', '.join(ERRATA_KINDS)}, divided by"
                f" tabs, not {line!r}"
            )
        if cells[2] == kind:
            same.append((cells[0], cells[1]))
    return tuple(same)


def read_lines(path: Path) -> list[str]:
    """Read a text file as lines, ended by LF, CR LF or CR alone.

    Raises InvalidInputError where it cannot be read, is no UTF-8 text, or is over LIST_FILE_BYTES_MAX.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > LIST_FILE_BYTES_MAX:
            raise InvalidInputError(
                f"{path} has {size_bytes} bytes, more than {LIST_FILE_BYTES_MAX}: no list of names"
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 text") from error
    # str.splitlines would also divide at form feeds and other marks that a name may hold.
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n") if text else []

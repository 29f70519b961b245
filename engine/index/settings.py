"""What an operator may say about the index of a gallery."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.config import Settings
from engine.index.parameters import CROWDING_TEMPLATES_MAX, FLAT_ROWS_MAX


class IndexSettings(Settings, frozen=True):
    """When a gallery's index is rebuilt, and how long a search waits for it."""

    delta_rows_max: Annotated[int, Meta(ge=0)] = 50_000
    """Templates searched in memory before a generation is built; a tenth of the generation's where that is
    more, so that a gallery that grows is not built anew for ever."""
    dead_share_max: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Share of a generation's rows removed before it is built anew."""
    journal_rows_max: Annotated[int, Meta(ge=1)] = 100_000
    """Writes since the generation before it is built anew, or a tenth of its rows where that is more: all are
    read when the gallery is opened."""
    build_inline_rows_max: Annotated[int, Meta(ge=0)] = 10_000
    """Templates of which a generation is built in the serving process, in half a second; more: in one that
    gives way."""
    build_threads: Annotated[int, Meta(ge=0, le=2)] = 0
    """Threads that encode a generation; 0: two from four cores on. Two take two thirds of the time."""
    flat_rows_max: Annotated[int, Meta(ge=0)] = FLAT_ROWS_MAX
    """Templates up to which a generation is scanned exactly; above it is searched by codes."""
    crowding_templates_max: Annotated[int, Meta(ge=0)] = CROWDING_TEMPLATES_MAX
    """Templates up to which a build finds how crowded each one lies, in galleries whose crowding correction
    is AUTO; where it is ON it does so at any size."""
    catch_up_rows_max: Annotated[int, Meta(ge=1)] = 20_000
    """Rows of the journal that one search applies; where more were written since the last one, it is
    answered UNAVAILABLE, or from what is there where EVENTUAL consistency is asked for."""
    catch_up_ms_max: Annotated[float, Meta(gt=0)] = 50.0
    """Time that one search spends on that, milliseconds."""
    search_device: Literal["cpu", "cuda", "torch-cpu"] = "cpu"
    """Where generations are searched: cuda scans them exactly on a GPU, where each process takes 6 x d + 3
    bytes a template and 1 GiB, twice while a generation is replaced; it refuses to start where there is none.
    torch-cpu is the same code on the CPU, slow, for tests."""

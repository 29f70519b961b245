"""What makes one job another."""

from __future__ import annotations

import msgspec

from indexer.record import JobSettings


def test_what_is_read_of_a_file_makes_another_job() -> None:
    plain = JobSettings(source="/s", gallery="g", target="t", ids="/i")
    # As it was before data sets of HDF5 were a part of it: who asks for none finds the old job again.
    assert plain.id == "a725a11e7d99"
    others = [msgspec.structs.replace(plain, images="x"), msgspec.structs.replace(plain, labels="x")]
    assert len({one.id for one in [plain, *others]}) == 3

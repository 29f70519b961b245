"""A gallery exported and loaded again is the same gallery; a damaged export loses what is damaged only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.types import EmbeddingContract, Enrollment, GallerySettings, Template
from indexer import load
from indexer.export import export_gallery
from indexer.items import Reason
from indexer.pages import stored_pages
from indexer.sources.parquet import ParquetSource
from indexer.target import LocalTarget
from tests.contract.naive import unit_vectors
from tests.unit.indexer.test_job import opened, reasons, run

DIMENSION = 16
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION, threshold=0.5)


def export(target: LocalTarget, gallery: str, file: Path, row_group_rows: int = 16_384) -> bytes:
    gallery_opened = target.galleries.get(gallery)
    export_gallery(
        stored_pages(gallery_opened),
        CONTRACT,
        file,
        overwrite=True,
        order="source",
        without_times=True,
        row_group_rows=row_group_rows,
    )
    return file.read_bytes()


def test_a_gallery_comes_back_without_loss(tmp_path: Path) -> None:
    vectors = unit_vectors(np.random.default_rng(1), 40, DIMENSION)
    with opened(tmp_path) as target:
        target.create("before", CONTRACT, GallerySettings())
        gallery = target.galleries.get("before")
        gallery.enroll(
            [
                *(
                    Enrollment(
                        f"p{row // 2}",
                        (Template(vectors[row], row / 100, f"picture {row}" if row % 3 else ""),),
                        {"site": "oslo", "zimmer": "=1+1"} if row % 4 == 0 else {},
                        expire_time=4e9 if row == 8 else None,
                    )
                    for row in range(40)
                ),
                Enrollment("nobody yet", (), {"note": "no template"}),
                Enrollment("мария", (Template(unit_vectors(np.random.default_rng(2), 1, DIMENSION)[0]),)),
            ]
        )
        expected = export(target, "before", tmp_path / "before.parquet")
        summary = run(tmp_path, target, tmp_path / "before.parquet", "after", contract=CONTRACT)
        assert summary.num_refused == 0
        assert export(target, "after", tmp_path / "after.parquet") == expected
        assert target.galleries.get("after").info().num_identities == 22


def test_of_a_damaged_file_what_can_be_read_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "UNREADABLE_ROWS", 4)
    vectors = unit_vectors(np.random.default_rng(3), 64, DIMENSION)
    file = tmp_path / "before.parquet"
    with opened(tmp_path) as target:
        target.create("before", CONTRACT, GallerySettings())
        target.galleries.get("before").enroll(
            [Enrollment(f"p{row:02d}", (Template(vectors[row], 0.5, f"{row:02d}"),)) for row in range(64)]
        )
        export(target, "before", file, row_group_rows=16)
        group = pq.ParquetFile(file).metadata.row_group(2)
        places = {
            group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)
        }
        column = next(chunk for name, chunk in places.items() if name.startswith("vector"))
        data = bytearray(file.read_bytes())
        start = column.dictionary_page_offset or column.data_page_offset
        data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
        file.write_bytes(data)
        assert ParquetSource(file).num_rows == 64
        summary = run(tmp_path, target, file, "after", contract=CONTRACT)
        assert summary.num_templates == 48
    assert {reason for _, reason in reasons(summary, tmp_path)} == {Reason.UNREADABLE}
    assert next(key for key, _ in reasons(summary, tmp_path)) == "rows 32 to 35"

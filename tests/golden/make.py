"""Make the data folder that every later version must open: python -m tests.golden.make

Writes format-<n>.tar.gz, with nothing in it but seeded random vectors, and format-<n>.json with the answers
that it must give. To be run once for each new format, and never again: old files must open.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.live_index import report_nothing
from engine.store.environment import StoreSettings
from engine.store.records import FORMAT_VERSION
from engine.types import (
    SEARCH_DEFAULTS,
    AnsweredBefore,
    EmbeddingContract,
    Enrollment,
    Fusion,
    GallerySettings,
    Receipt,
    SearchOptions,
    Template,
)
from tests.calibrations import calibration
from tests.contract.clock import Clock
from tests.contract.naive import unit_vectors

FOLDER = Path(__file__).resolve().parent
DIMENSION = 8
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION, threshold=0.5)
SETTINGS = GalleriesSettings(store=StoreSettings(map_size_bytes_max=1 << 26), maintenance_s=0)
VECTORS = unit_vectors(np.random.default_rng(20), 60, DIMENSION)
PROBES = unit_vectors(np.random.default_rng(21), 4, DIMENSION)
RATED = GallerySettings(target_fpir=0.25, review_fpir=0.5, ambiguity=0.125, target_fmr=0.0625)
CALIBRATIONS = {CONTRACT.digest: calibration()}
"""Of other vectors: nothing is decided by it."""
CROPS = [np.random.default_rng(22 + number).bytes(9000 * number + 50) for number in range(3)]
"""Nobody's face; the store does not look at them."""
RECEIPT = Receipt(b"key of the receipt, 32 bytes ...", b"body" * 8, lambda _: b"first answer")


def fill(galleries: Galleries, clock: Clock) -> None:
    """A gallery with a generation, a delta, removed and erased identities, expiry, an alias, a receipt."""
    galleries.create("empty", CONTRACT)
    galleries.create("people", CONTRACT, GallerySettings(templates_per_identity_max=4, threshold=0.25))
    galleries.set_alias("now", "people")
    people = galleries.get("people")
    for number in range(12):
        templates = [
            Template(VECTORS[3 * number + row], 0.25 * (row + 1), f"{number}-{row}.jpg") for row in range(3)
        ]
        people.enroll([Enrollment(f"p{number:02d}", tuple(templates), {"name": f"Zoë {number}"})])
        clock.now += 60
    people.remove_identities(["p01"], erase=True)
    people.build(report_nothing)
    people.remove_identities(["p02"])
    people.remove_template("p03", 10)
    people.enroll([Enrollment("中", (Template(VECTORS[50]),), expire_time=clock.now + 3600)])
    people.enroll([Enrollment("p00", (Template(VECTORS[51]),)), Enrollment("bare")], receipt=RECEIPT)
    galleries.create("pictured", CONTRACT, GallerySettings(keep_crops=True))
    pictured = galleries.get("pictured")
    for number in range(3):
        crop = CROPS[number]
        pictured.enroll([Enrollment(f"c{number}", (Template(VECTORS[52 + number], crop=crop),))])
    pictured.enroll([Enrollment("bare", (Template(VECTORS[55]),))])
    pictured.remove_identities(["c1"], erase=True)
    galleries.create("rated", CONTRACT, RATED)


def answers(galleries: Galleries) -> dict[str, Any]:
    """All that can be asked of the folder, as plain values."""
    people = galleries.get("now")
    try:
        people.enroll([], receipt=RECEIPT)
    except AnsweredBefore as before:
        first_answer = before.answer.decode()
    kept = galleries.get("pictured").list_identities(with_crops=True) if "pictured" in ids(galleries) else []
    return {
        "galleries": [
            [info.gallery_id, info.num_identities, info.num_templates, info.sequence, info.create_time]
            for info in galleries.infos()
        ],
        "contract": people.contract.digest,
        "settings": [
            people.info().settings.templates_per_identity_max,
            people.info().settings.threshold,
        ],
        "aliases": galleries.aliases(),
        "receipt": first_answer,
        "generation": people.generation(),
        "identities": [
            [
                identity.identity_id,
                dict(identity.attributes),
                identity.create_time,
                identity.expire_time,
                [
                    [one.template_id, one.vector.tobytes().hex(), one.quality, one.source, one.create_time]
                    for one in templates
                ],
            ]
            for identity, templates in people.list_identities()
        ],
        "searches": searches(people, SEARCH_DEFAULTS),
        "filtered": [
            searches(people, SearchOptions(filter={"name": name})) for name in ("Zoë 5", "Zoë 2", "Zoe 5")
        ],
        "crops": [
            [identity.identity_id, [[one.template_id, sha256(one.crop).hexdigest()] for one in templates]]
            for identity, templates in kept
        ],
        "rates": [
            [each.target_fpir, each.review_fpir, each.ambiguity, each.target_fmr]
            for each in (info.settings for info in galleries.infos())
        ],
        "means": searches(people, SearchOptions(exact=True, fusion=Fusion.MEAN)),
    }


def ids(galleries: Galleries) -> list[str]:
    """Of all galleries."""
    return [info.gallery_id for info in galleries.infos()]


def searches(gallery: Gallery, options: SearchOptions) -> list[list[Any]]:
    """Candidates of every probe, as plain values."""
    return [
        [[one.identity_id, round(one.similarity, 12), one.template_id] for one in answer.candidates]
        for answer in gallery.identify(PROBES, 5, options=options)
    ]


def pack(data: Path) -> bytes:
    """The folder as a tar file without times, owners and locks, compressed."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in sorted(data.rglob("*")):
            if path.name not in ("lock", "lock.mdb"):
                entry = tarfile.TarInfo(str(path.relative_to(data)))
                entry.type = tarfile.DIRTYPE if path.is_dir() else tarfile.REGTYPE
                entry.mode = 0o755 if path.is_dir() else 0o644
                content = b"" if path.is_dir() else path.read_bytes()
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def main() -> None:
    """Write both files."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        galleries = Galleries.open(Path(folder), SETTINGS, clock=clock, calibrations=CALIBRATIONS)
        fill(galleries, clock)
        recorded = answers(galleries)
        galleries.close()
        (FOLDER / f"format-{FORMAT_VERSION}.tar.gz").write_bytes(pack(Path(folder)))
    text = json.dumps(recorded, ensure_ascii=False, indent=1)
    (FOLDER / f"format-{FORMAT_VERSION}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a server is, holds and did, as JSON that scripts rely on and as text for people.

As engine/cli/output.py does it for answers about faces; the JSON is frozen by the same tests.
"""

from __future__ import annotations

from engine.assembly import NO_MODEL
from engine.cli.layout import NONE, Json, count, table
from engine.cli.output_thresholds import (
    probe_statistics_json,
    probe_statistics_lines,
    thresholds_json,
    thresholds_lines,
)
from engine.client import BuildProgress, GalleryStatus, RecallProgress, ServerStatus
from engine.types import Agreement


def agreement_json(agreement: Agreement | None) -> Json | None:
    """Tell what was measured of an index."""
    if agreement is None:
        return None
    return {"probes": agreement.num_probes, "top1": agreement.top1, "top10": agreement.top10}


def status_json(status: ServerStatus) -> Json:
    """Tell what a server is and holds."""
    return {
        "version": status.version,
        "device": status.device,
        "model": NO_MODEL if status.contract is None else status.contract.name,
        "contract_digest": None if status.contract is None else status.contract.digest,
        "galleries": [
            {
                "id": gallery.gallery_id,
                "identities": gallery.num_identities,
                "templates": gallery.num_templates,
                "sequence": gallery.sequence,
                "generation": gallery.generation,
                "kind": gallery.kind,
                "agreement": agreement_json(gallery.agreement),
                "search_device": gallery.search_device,
                "thresholds": thresholds_json(gallery.thresholds),
                "probe_statistics": probe_statistics_json(gallery.probe_statistics),
            }
            for gallery in status.galleries
        ],
        "workers": status.num_workers,
    }


def status_lines(server: str, status: ServerStatus) -> list[str]:
    """Describe a server."""
    model = (
        "no model: it takes vectors only"
        if status.contract is None
        else f"model {status.contract.name} on {status.device}"
    )
    counts = [count(len(status.galleries), "gallery")]
    if status.num_workers > 1:
        counts.append(count(status.num_workers, "worker"))
    head = f"identiface {status.version} at {server}, {model}, {', '.join(counts)}"
    rows = [
        (
            gallery.gallery_id,
            gallery.num_identities,
            gallery.num_templates,
            gallery.sequence,
            gallery.generation or NONE,
            _index_text(gallery),
            NONE if gallery.agreement is None else f"{gallery.agreement.top1:.2%}",
            NONE if gallery.agreement is None else f"{gallery.agreement.top10:.2%}",
        )
        for gallery in status.galleries
    ]
    header = ("gallery", "identities", "templates", "sequence", "generation", "kind", "top-1", "top-10")
    below = [f"  {line}" for gallery in status.galleries for line in _decision_lines(gallery)]
    return [head, *(table(header, rows, "  ") if rows else []), *below]


def _decision_lines(gallery: GalleryStatus) -> list[str]:
    """Say by which thresholds a gallery decides and what its probes are like, as far as the server tells."""
    lines: list[str] = []
    if gallery.thresholds is not None:
        lines += thresholds_lines(gallery.gallery_id, gallery.num_identities, gallery.thresholds)
    if gallery.probe_statistics is not None:
        lines += probe_statistics_lines(gallery.gallery_id, gallery.probe_statistics)
    return lines


def _index_text(gallery: GalleryStatus) -> str:
    """Say what an index is and, where it is not the CPU, where it is searched."""
    if not gallery.kind or gallery.search_device == "cpu":
        return gallery.kind or NONE
    return f"{gallery.kind} on {gallery.search_device}"


def build_json(gallery_id: str, progress: BuildProgress) -> Json:
    """Tell which generation was built."""
    return {
        "id": gallery_id,
        "generation": progress.generation,
        "sequence": progress.sequence,
        "templates": progress.num_total,
    }


def build_lines(gallery_id: str, progress: BuildProgress) -> list[str]:
    """Say which generation was built."""
    return [
        f"{gallery_id}: generation {progress.generation} of {count(progress.num_total, 'template')}"
        f" is current, covering sequence {progress.sequence}"
    ]


def recall_json(gallery_id: str, progress: RecallProgress) -> Json:
    """Tell what was measured."""
    return {
        "id": gallery_id,
        "generation": progress.generation,
        "kind": progress.kind,
        "agreement": agreement_json(progress.agreement),
    }


def recall_lines(gallery_id: str, progress: RecallProgress, measured: Agreement) -> list[str]:
    """Say what was measured."""
    return [
        f"{gallery_id}: generation {progress.generation} ({progress.kind}) finds the nearest template of an"
        f" exact scan for {measured.top1:.2%} of {count(measured.num_probes, 'probe')}, and"
        f" {measured.top10:.2%} of the ten nearest"
    ]

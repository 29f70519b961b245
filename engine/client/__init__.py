"""A typed client of the server, which raises the engine's own errors. Knows nothing of store or networks.

::

    from engine.client import Client
    from engine.types import FaceChoice

    with Client("127.0.0.1:7300") as client:
        client.create_gallery("staff")
        client.enroll("staff", "ada", [Path("ada.jpg").read_bytes()])
        for face in client.identify("staff", Path("group.jpg").read_bytes(), choice=FaceChoice.ALL):
            print(face.decision, face.candidates)
"""

from engine.client.client import Client
from engine.client.values import (
    BatchRemoveResult,
    BuildProgress,
    EnrolledIdentity,
    EnrollItem,
    EnrollOptions,
    FaceEnrollResult,
    FaceIdentification,
    FaceVerification,
    GalleryStatus,
    Picture,
    Probe,
    RawVector,
    RecallProgress,
    Sample,
    SearchKeywords,
    ServedGallery,
    ServerStatus,
)
from engine.open_set_types import GalleryCalibration, GalleryThresholds, ProbeStatistics
from engine.types import Agreement

__all__ = [
    "Agreement",
    "BatchRemoveResult",
    "BuildProgress",
    "Client",
    "EnrollItem",
    "EnrollOptions",
    "EnrolledIdentity",
    "FaceEnrollResult",
    "FaceIdentification",
    "FaceVerification",
    "GalleryCalibration",
    "GalleryStatus",
    "GalleryThresholds",
    "Picture",
    "Probe",
    "ProbeStatistics",
    "RawVector",
    "RecallProgress",
    "Sample",
    "SearchKeywords",
    "ServedGallery",
    "ServerStatus",
]

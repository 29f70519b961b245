"""The services of a server, by name. Knows nothing of how they are served."""

from __future__ import annotations

from engine.pb.identiface.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    identification_pb2,
    identification_pb2_grpc,
)
from engine.server.admin import AdminService
from engine.server.backend import Backend
from engine.server.embedding import EmbeddingService
from engine.server.endpoint import Service
from engine.server.enrollment import EnrollmentService
from engine.server.galleries import GalleryService
from engine.server.identification import IdentificationService

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (gallery_pb2, "GalleryService"),
        (enrollment_pb2, "EnrollmentService"),
        (identification_pb2, "IdentificationService"),
        (embedding_pb2, "EmbeddingService"),
        (admin_pb2, "AdminService"),
    )
)
"""Names of all, in full."""
EMBEDDING_SERVICE = SERVICES[3]


def all_services(backend: Backend) -> list[Service]:
    """Every service on one backend."""
    parts = (
        (gallery_pb2_grpc.add_GalleryServiceServicer_to_server, GalleryService(backend)),
        (enrollment_pb2_grpc.add_EnrollmentServiceServicer_to_server, EnrollmentService(backend)),
        (identification_pb2_grpc.add_IdentificationServiceServicer_to_server, IdentificationService(backend)),
        (embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, EmbeddingService(backend)),
        (admin_pb2_grpc.add_AdminServiceServicer_to_server, AdminService(backend)),
    )
    return [Service(name, add, servicer) for name, (add, servicer) in zip(SERVICES, parts, strict=True)]

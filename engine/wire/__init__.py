"""What server and client must agree on: values as protobuf messages, errors as gRPC statuses.

Knows nothing of galleries, networks or sockets.
"""

from engine.wire.errors import MESSAGE_SIZE_BYTES_MAX, code_of, from_rpc_error, from_status, to_status

__all__ = ["MESSAGE_SIZE_BYTES_MAX", "code_of", "from_rpc_error", "from_status", "to_status"]

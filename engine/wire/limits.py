"""Limits that server, client and command line share. Knows nothing of messages; imports nothing."""

from __future__ import annotations

MESSAGE_SIZE_BYTES_MAX = 64 * 2**20
"""Size of one gRPC message, request or answer; both sides set their channels to it."""
FACE_PX_MIN = 12
"""Smallest face that anybody may ask for: the side of the first network's window, of which a test holds it to
be a copy, since reading it there would take torch."""
TIMEOUT_S = 30.0
"""Time allowed for a call that is no stream, where the caller names no other."""

"""Limits of what one call, one identity, one template may be, each with its unit. Knows nothing else."""

from __future__ import annotations

IDENTITY_ID_BYTES_MAX = 255
"""Bytes of UTF-8; well below LMDB's longest key."""
SOURCE_BYTES_MAX = 255
"""Bytes of UTF-8."""
CONTRACT_NAME_CHARS_MAX = 100
"""Characters of the name of a network, and of a crop, in an embedding contract."""
ATTRIBUTES_BYTES_MAX = 1024
"""Bytes of UTF-8 of all keys and values of one identity: records stay inside one LMDB page."""
TEMPLATES_PER_IDENTITY_MAX = 16
CROP_BYTES_MAX = 1 << 18
"""Of one kept crop: the largest one fits, also of noise, which JPEG cannot compress."""
DIMENSION_MIN = 2
DIMENSION_MAX = 1024
K_DEFAULT = 10
K_MAX = 100
ENROLL_ITEMS_MAX = 256
"""Identities in one commit."""
PROBES_MAX = 256
"""Probes in one call."""
PICTURES_MAX = 64
"""Pictures in one call."""
RECALL_PROBES_DEFAULT = 1000
RECALL_PROBES_MAX = 10_000
"""Probes of one measurement of an index."""
REMOVE_ITEMS_MAX = 1000
"""Identities removed in one commit."""
PAGE_ITEMS_DEFAULT = 100
PAGE_ITEMS_MAX = 1000

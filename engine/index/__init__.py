"""Nearest templates: the only importer of FAISS. Knows nothing of identities' names, LMDB or the wire."""

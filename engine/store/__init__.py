"""Galleries on disk: the only importer of LMDB. Knows nothing of FAISS, torch or the wire.

The store is the truth; every index is a cache of it. A write is answered after it is committed and synced.
"""

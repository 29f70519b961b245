"""Bulk jobs: pictures or vectors by the million to a served gallery."""

"""Identiface: who is in this picture, against N enrolled people, on your own machines."""

__version__ = "0.1.0"

"""The Textual application.  Importing this package imports no textual: scapy's extension loader imports it too."""

from __future__ import annotations


def scapy_ext(ext: object) -> None:
    """Scapy's extension loader wants this in every top-level package."""

"""Decoding: what a capture or a live stream says, field by field and conversation by conversation."""

from __future__ import annotations


def scapy_ext(ext: object) -> None:
    """Scapy's extension loader wants this in every top-level package."""

"""A complete VMBus: both ends of Hyper-V's bus, synthetic devices, and captures of everything that crosses it.

docs/architecture.md says where to find what.
"""

from __future__ import annotations

__version__ = "0.1.0"


def scapy_ext(ext: object) -> None:
    """Scapy's extension loader wants this in every top-level package; the layers are registered by ``dissectors``."""

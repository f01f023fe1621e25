"""Decoding: what a capture or a live stream says, field by field and conversation by conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def scapy_ext(ext: Any) -> None:
    """``conf.exts.load("vmbus")``: afterwards ``load_contrib("vmbus")`` finds our layers."""
    from vmbus import __version__

    ext.config("VMBus", __version__)
    ext.register(name="vmbus", mode=ext.MODE.CONTRIB, path=Path(__file__).parent / "layers" / "vmbus.py", default=False)

"""Ethernet frames of network cards as an ordinary pcapng, one interface for each channel.

A frame that was recorded only in part keeps its real length, as any capture with a snap length does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from dissectors.engine import Decoded
from dissectors.engine.dialects.network import Network, frames_of
from vmbus.capture import blocks

LINKTYPE_ETHERNET = 1


def export_frames(items: Iterable[Decoded], target: BinaryIO) -> int:
    """Write the frames of all records that hold some; returns how many."""
    target.write(blocks.section_header(["Ethernet frames of a VMBus capture"]))
    interfaces: dict[str, int] = {}
    count = 0
    for item in items:
        if not isinstance(item.dialect, Network):
            continue
        for frame, length in frames_of(item):
            name = item.channel_name
            if name not in interfaces:
                interfaces[name] = len(interfaces)
                target.write(blocks.interface_description(f"channel {name}", link_type=LINKTYPE_ETHERNET))
            target.write(
                blocks.enhanced_packet(interfaces[name], item.time_ns, frame, length, direction=item.direction)
            )
            count += 1
    return count

"""Cuts the partition protocol's byte stream into frames, and builds frames; no I/O.

See docs/partition-protocol.md for the layout.
"""

from __future__ import annotations

from typing import NamedTuple

from vmbus.errors import VmbusError
from vmbus.wire.partition import MAX_FRAME, FrameHeader, FrameStatus, Operation
from vmbus.wire.schema import Format


class FrameError(VmbusError):
    """The stream is not the partition protocol: nothing after this point can be trusted."""


class Frame(NamedTuple):
    """One frame; ``body`` is the bytes after the header."""

    operation: int
    status: int
    vp: int
    sequence: int
    body: bytes


class FrameReader:
    """Collects received bytes and yields whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take received bytes and return the frames that are complete now; ``FrameError`` for an impossible length."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        position = 0
        while len(buffer) - position >= FrameHeader.SIZE:
            header = FrameHeader.parse(buffer, position)
            if not FrameHeader.SIZE <= header.length <= MAX_FRAME:
                raise FrameError(f"a frame of {header.length} bytes (16 to {MAX_FRAME} are possible)")
            if len(buffer) - position < header.length:
                break
            body = bytes(buffer[position + FrameHeader.SIZE : position + header.length])
            frames.append(Frame(int(header.operation), int(header.status), header.vp, header.sequence, body))
            position += header.length
        del buffer[:position]
        return frames


def build_frame(
    operation: int, body: Format | bytes = b"", *, vp: int = 0, sequence: int = 0, status: FrameStatus = FrameStatus.OK
) -> bytes:
    """The bytes of one frame."""
    content = bytes(body)
    header = FrameHeader(
        length=FrameHeader.SIZE + len(content), operation=Operation(operation), status=status, vp=vp, sequence=sequence
    )
    return header.build() + content

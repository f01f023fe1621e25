"""The two byte streams of every Hyper-V socket, each in a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dissectors.engine import Decoded
from dissectors.engine.dialects.plain import Plain
from vmbus.wire.capture import Direction, RecordKind
from vmbus.wire.protocols import Framing, StreamBytes


def stream_piece(item: Decoded) -> bytes:
    """The bytes that a record adds to its socket's stream; empty if it adds none."""
    if item.kind != RecordKind.PACKET or not isinstance(item.dialect, Plain):
        return b""
    if item.dialect.protocol.framing is not Framing.STREAM:
        return b""
    return b"".join(bytes(item.data[layer.start : layer.stop]) for layer in item.layers if layer.format is StreamBytes)


def export_sockets(items: Iterable[Decoded], folder: Path) -> list[Path]:
    """Write ``channel-N-NUMBER-guest.bin`` and ``...-host.bin`` for each socket; returns what was written.

    NUMBER is that of the record in which the channel was offered, because ids are used again.
    """
    written: dict[Path, None] = {}
    for item in items:
        piece = stream_piece(item)
        if not piece:
            continue
        sender = "guest" if item.direction == Direction.GUEST_TO_HOST else "host"
        offered = item.channel.offered if item.channel is not None else 0
        path = folder / f"channel-{item.channel_id}-{offered}-{sender}.bin"
        if not written:
            folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if path in written else "wb") as file:
            file.write(piece)
        written[path] = None
    return list(written)

"""Walks the blocks of a pcapng file or pipe, whoever wrote it, and gets over damage.

Both byte orders, blocks of any kind, sections of any length. After a block whose length cannot be right, the next
block is searched for, and a :class:`Damage` says how many bytes were skipped: nothing here raises because of what is
in a file, except :class:`NotACapture` when there is no block in it at all. What the blocks mean is
``vmbus.capture.reader``'s subject.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from vmbus.capture.blocks import BYTE_ORDER_MAGIC, ENHANCED_PACKET, SECTION_HEADER
from vmbus.errors import VmbusError
from vmbus.loop import is_readable

STREAM_SECONDS = 3.0
"""A stream begins with its section header at once; what says nothing for so long is none."""

MAX_BLOCK = 32 << 20
"""Bytes. A longer block is taken for damage."""

MAX_RECOVERED = 64 << 10
"""Bytes. So far behind a block with a wrong length its second length is looked for."""

_READ_SIZE = 1 << 20
_FOLLOW_INTERVAL = 0.05

_LITTLE, _BIG = struct.Struct("<I"), struct.Struct(">I")

# Blocks that a search believes in: section, interface, packets, names, statistics, journal, secrets, custom.
KNOWN_TYPES = (SECTION_HEADER, 1, 2, 3, 4, 5, 6, 9, 10, 0xBAD, 0x40000BAD)
_CANDIDATES = {
    order: re.compile(b"|".join(re.escape(order.pack(block_type)) for block_type in KNOWN_TYPES))
    for order in (_LITTLE, _BIG)
}

_FOREIGN = {
    b"\xd4\xc3\xb2\xa1": "a pcap file", b"\xa1\xb2\xc3\xd4": "a pcap file",
    b"\x4d\x3c\xb2\xa1": "a pcap file", b"\xa1\xb2\x3c\x4d": "a pcap file",
    b"\x1f\x8b\x08\x00": "a gzip file", b"\x28\xb5\x2f\xfd": "a zstd file", b"\x7fELF": "an ELF file",
}  # fmt: skip


class ByteSource(Protocol):
    """What a capture is read from. ``read`` gives what there is, up to ``size`` bytes; nothing at the end."""

    def read(self, size: int, /) -> bytes | None: ...

    def close(self) -> None: ...


class OpenedSource(ByteSource, Protocol):
    """One that the system knows, and that can be waited for."""

    def fileno(self) -> int: ...


class NotACapture(VmbusError):
    """There is no pcapng block in what was to be read."""


class Block(NamedTuple):
    """One block of a section."""

    offset: int
    """Where in the file it starts."""
    block_type: int
    body: bytes
    """What lies between its two lengths."""
    order: str
    """``<`` or ``>``, for ``struct``."""
    remark: str = ""
    """What is wrong with a block that can be read all the same."""


class Damage(NamedTuple):
    """Bytes that could not be read."""

    offset: int
    skipped: int
    text: str

    def __str__(self) -> str:
        return f"at byte {self.offset}: {self.text}; {self.skipped} bytes skipped"


class BlockWalker:
    """Iterates over the blocks of ``source``, which is read sequentially and never sought in.

    With ``follow`` the end of the file is not the end: the walker waits for more, until :meth:`stop`.
    """

    def __init__(
        self,
        source: ByteSource,
        name: str = "the capture",
        *,
        follow: bool = False,
        start: int = 0,
        order: str = "<",
    ) -> None:
        """``start`` is where in the capture the source begins, and ``order`` the byte order of the section there."""
        self._source = source
        self._name = name
        self._follow = follow
        self._buffer = bytearray()
        self._at = 0
        self._base = start
        self._is_stopped = False
        self._order = _LITTLE if order == "<" else _BIG
        self._found_any = start > 0

    def stop(self) -> None:
        """End a walk that follows a growing file; may be called from another thread."""
        self._is_stopped = True

    def __iter__(self) -> Iterator[Block | Damage]:
        if self._has(4):
            kind = _FOREIGN.get(bytes(self._buffer[:4]))
            if kind is not None:
                raise NotACapture(f"{self._name} is {kind}, not a pcapng capture")
        while self._has(12):
            length, remark = self._measure(self._at)
            if length:
                yield self._take(length, remark)
            else:
                yield self._search()
        left = len(self._buffer) - self._at
        if not self._found_any:
            size = self._offset + left
            why = f"there is no block in its {size} byte{'s' * (size > 1)}" if size else "it is empty"
            raise NotACapture(f"{self._name} is not a pcapng capture: {why}")
        if left:
            yield Damage(self._offset, left, "the capture ends within a block")

    @property
    def _offset(self) -> int:
        return self._base + self._at

    def _has(self, length: int, at: int | None = None) -> bool:
        """Whether ``length`` bytes from ``at`` on are in the buffer, after reading as much as it takes."""
        end = (self._at if at is None else at) + length
        while len(self._buffer) < end:
            is_stopped = self._is_stopped  # known before the read: what was there by then is walked over
            more = self._source.read(_READ_SIZE)
            if more:
                self._buffer += more
            elif self._follow and not is_stopped:
                time.sleep(_FOLLOW_INTERVAL)
            else:
                return False
        return True

    def _word(self, at: int) -> int:
        return int(self._order.unpack_from(self._buffer, at)[0])

    def _drop_read(self) -> None:
        """Forget what was walked over, now and then."""
        if self._at >= _READ_SIZE:
            del self._buffer[: self._at]
            self._base += self._at
            self._at = 0

    def _take(self, length: int, remark: str) -> Block:
        at = self._at
        body = bytes(self._buffer[at + 8 : at + length - 4])
        order = "<" if self._order is _LITTLE else ">"
        found = Block(self._base + at, self._word(at), body, order, remark)
        self._at += length
        self._found_any = True
        self._drop_read()
        return found

    def _measure(self, at: int) -> tuple[int, str]:
        """The length of the block at a place in the buffer, 0 if none can be believed; and what is wrong with it."""
        length = self._stated_length(at)
        if length and self._has(length, at) and self._word(at + length - 4) == length:
            return length, ""
        by_second = self._length_by_second(at)
        if by_second:
            return by_second, "the first length of the block is wrong"
        if length and self._is_sound(at + length):
            return length, "the second length of the block is wrong"
        return 0, ""

    def _length_by_second(self, at: int) -> int:
        """The length that a block's second length gives it, where a block follows; 0 if there is none."""
        import numpy as np  # takes a while to load, and is wanted for damaged captures only

        self._has(MAX_RECOVERED, at)
        count = min(MAX_RECOVERED, len(self._buffer) - at) // 4
        words = np.frombuffer(bytes(self._buffer[at : at + 4 * count]), f"{self._order.format[0]}u4")
        for place in np.flatnonzero(words == np.arange(4, 4 * count + 4, 4)).tolist():
            length = 4 * place + 4
            if length >= 12 and self._starts_block(at + length):
                return length
        return 0

    def _is_sound(self, at: int) -> bool:
        """Whether a block of a known type, with two equal lengths and something sensible in or behind it, is there."""
        if not self._has(12, at) or self._word(at) not in KNOWN_TYPES:
            return False
        length = self._stated_length(at)
        return (
            length > 0
            and self._has(length, at)
            and self._word(at + length - 4) == length
            and (self._starts_block(at + length) or self._holds_a_packet(at, length))
        )

    def _holds_a_packet(self, at: int, length: int) -> bool:
        """Whether a block has room for the packet that it says it holds: then what is behind it may be damaged."""
        return self._word(at) == ENHANCED_PACKET and 32 <= length and self._word(at + 20) <= length - 32

    def _starts_block(self, at: int) -> bool:
        """Whether what is at a place looks like the beginning of a block, or is the end of the capture."""
        if not self._has(12, at):
            return len(self._buffer) == at
        return self._word(at) in KNOWN_TYPES and self._stated_length(at) > 0

    def _stated_length(self, at: int) -> int:
        """What the block at a place says its length is, if that can be; a section header tells the byte order first."""
        if self._word(at) == SECTION_HEADER:
            for order in (_LITTLE, _BIG):
                if order.unpack_from(self._buffer, at + 8)[0] == BYTE_ORDER_MAGIC:
                    self._order = order
        length = self._word(at + 4)
        return length if 12 <= length <= MAX_BLOCK and not length & 3 else 0

    def _search(self) -> Damage:
        """Go to the next block that can be believed in, or to the end."""
        start = self._offset
        self._at += 1
        while self._has(12):
            match = _CANDIDATES[self._order].search(self._buffer, self._at)
            if match is None:
                # A type cut in two by the end of what was read so far must be found when more is there.
                self._at = max(self._at, len(self._buffer) - 3)
                self._drop_read()
                if not self._has(len(self._buffer) - self._at + 1):
                    break
                continue
            self._at = match.start()
            if self._is_sound(self._at):
                return Damage(start, self._offset - start, "a block's length is wrong")
            self._at += 1
        skipped = self._base + len(self._buffer) - start
        self._at = len(self._buffer)
        return Damage(start, skipped, "the capture ends within a block, or a block's length is wrong")


def open_source(source: str) -> OpenedSource:
    """Open what a capture is read from: a path, ``-`` for standard input, or ``unix:PATH`` for a live stream."""
    if source == "-":
        # Unbuffered: a buffer would wait until it is full, and a live capture would stand still.
        return os.fdopen(os.dup(0), "rb", buffering=0)
    if source.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = source.removeprefix("unix:")
        try:
            connection.connect(path)
            if os.path.exists(f"{path}.ctl"):
                raise OSError(errno.EPROTOTYPE, "guests connect to this socket; a host's stream is at its --stream")
            if not is_readable(connection, STREAM_SECONDS):
                raise OSError(errno.EPROTOTYPE, "nothing comes from this socket: it is no stream of a host")
            return connection.makefile("rb", buffering=0)
        finally:
            connection.close()
    return open(source, "rb", buffering=0)

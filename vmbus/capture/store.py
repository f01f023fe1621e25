"""The index of a capture: columns over all its records, and any one of them on demand.

::

    store = CaptureStore.open("traffic.pcapng")
    store.update()
    slow = np.flatnonzero(store.columns.kind == RecordKind.PACKET)
    print(store.record(int(slow[0])))

The file is mapped; blocks are found by following their lengths, and their fields are then gathered for 8,192 of them
at a time. What is not as we write it (other byte order, damage) goes block by block through ``vmbus.capture.walk``,
and the outcome is the same. :meth:`CaptureStore.update` takes in what has been added, to a file that grows or by a
live stream, which is spooled to a temporary file.

A capture larger than memory is passed through in windows: opened with ``windowed``, indexed ``at_most`` so many bytes
at a time, and each window forgotten (:meth:`CaptureStore.forget`) before the next. Neither index nor mapping grows.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from vmbus.capture import blocks
from vmbus.capture.columns import Columns
from vmbus.capture.gather import Words, describe, gather
from vmbus.capture.outputs import write_all
from vmbus.capture.reader import (
    LOCAL_USE,
    PACKET_BLOCKS,
    CannotOpen,
    NotACapture,
    Record,
    Section,
    packet_record,
    unknown_block,
)
from vmbus.capture.walk import KNOWN_TYPES, MAX_BLOCK, Block, BlockWalker, Damage, OpenedSource, open_source
from vmbus.errors import VmbusError
from vmbus.loop import is_readable

_BATCH = 1 << 13
_PARTING = frozenset({blocks.SECTION_HEADER, blocks.PACKET, blocks.SIMPLE_PACKET})
"""Blocks that end a run of packets which are taken in together: a section, and records of other kinds."""
_SPOOL_PIECE = 1 << 20


class _SectionStart:
    """Where a section begins among the records, and how its numbers are written."""

    def __init__(self, record: int, section: Section, order: str) -> None:
        self.record = record
        self.section = section
        self.order = order


class CannotSpool(VmbusError):
    """What a pipe or stream sends cannot be kept."""


def is_file(source: str) -> bool:
    """Whether a source is a file that can be mapped: no pipe, FIFO, socket or standard input, and not missing."""
    if source == "-" or source.startswith("unix:"):
        return False
    try:
        return stat.S_ISREG(os.stat(source).st_mode)
    except OSError:
        return False


class CaptureStore:
    """An append-only index over one capture. Not safe to use from two threads at once."""

    def __init__(
        self,
        fd: int,
        name: str,
        source: OpenedSource | None = None,
        *,
        windowed: bool = False,
        spool_limit: int = 0,
    ) -> None:
        """Index the file ``fd``, which is the store's from now on; ``source`` is what to spool into it, if anything.

        After ``spool_limit`` bytes (0: never) no more is spooled. ``windowed``: only what is indexed and not forgotten
        is mapped.
        """
        self.name = "standard input" if name == "-" else name
        self.columns = Columns()
        self.first = 0
        """So many records were forgotten: the first of the columns has this index in the capture."""
        self.damage: list[Damage] = []
        self.size = 0
        """Bytes that are indexed."""
        self.is_full = False
        """Whether there was more than ``spool_limit``."""
        self._fd = fd
        self._close_file = weakref.finalize(self, os.close, fd)
        self._source = source
        self._is_windowed = windowed
        self._spool_limit = spool_limit
        self._sections: list[_SectionStart] = []
        self._map: mmap.mmap | None = None
        self._base = 0  # where in the file the mapping starts

    @classmethod
    def open(cls, source: str | os.PathLike[str], *, windowed: bool = False, spool_limit: int = 0) -> Self:
        """Open a path, ``-`` or ``unix:PATH``; nothing is read before :meth:`update`.

        A path that is no file, such as a FIFO, is read like a pipe; opening it waits for whoever writes.
        """
        name = os.fspath(source)
        try:
            if is_file(name):
                return cls(os.open(name, os.O_RDONLY | os.O_CLOEXEC), name, windowed=windowed)
            with tempfile.TemporaryFile(prefix="vmbus-spool-") as spool:
                opened = open_source(name)
                return cls(os.dup(spool.fileno()), name, opened, windowed=windowed, spool_limit=spool_limit)
        except OSError as error:
            raise CannotOpen(f"cannot open {name}: {error.strerror or error}") from error

    @property
    def mapped(self) -> mmap.mmap | None:
        """The file as it is mapped now, for whoever reads fields of many records at once; None before any update."""
        return self._map

    @property
    def is_live(self) -> bool:
        """Whether more can come from a pipe or a stream."""
        return self._source is not None

    @property
    def file_size(self) -> int:
        """Bytes of the file, or of what was spooled so far."""
        return os.fstat(self._fd).st_size

    def reopen(self) -> BinaryIO:
        """The file, or what was spooled, from its start: a reader of its own, which the caller closes."""
        return open(f"/proc/self/fd/{self._fd}", "rb")

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def sections(self) -> list[Section]:
        return [start.section for start in self._sections]

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None
        self._close_file()

    # Reading

    def update(self, *, final: bool = False, at_most: int | None = None) -> int:
        """Index what is new, and return how many records that is; does not block.

        The last block may not be whole yet and then waits. With ``final`` no more comes, and what is left is damage.
        ``at_most`` bytes are indexed if it is given (more, if one block is longer), so that a caller can show what is
        there already.
        Raises :class:`NotACapture` when there is no block in the capture, once that is certain.
        """
        before = len(self.columns)
        if self._source is not None:
            self._spool(final)
        size, start = self.file_size, self.size
        while self.size == start < size:
            end = size if at_most is None else min(size, start + at_most)
            self._reach(end if self._is_windowed else size)
            self._index(end, size, final)
            if at_most is None or end == size:
                break
            at_most *= 2
        if final and not self._sections and not self.first and not len(self.columns) and not self.size:
            raise NotACapture(f"{self.name} is not a pcapng capture: it is empty")
        return len(self.columns) - before

    def forget(self) -> None:
        """Drop what is known of the records so far; those that come next have indices from 0 again."""
        self.first += len(self.columns)
        self.columns = Columns()
        del self._sections[:-1]
        self.damage.clear()
        if self._is_windowed:
            self._map = None
            self._base = self.size - self.size % mmap.ALLOCATIONGRANULARITY

    def record(self, index: int) -> Record:
        """The record of an index, parsed; ``IndexError`` beyond the last."""
        if not 0 <= index < len(self.columns):
            raise IndexError(f"there is no record {index}")
        place = self.first + index
        start = self._sections[bisect_right(self._sections, place, key=lambda start: start.record) - 1]
        block = self._block(int(self.columns.offset[index]), start.order)
        return packet_record(block, start.section.interfaces, place + 1)

    def data(self, index: int) -> bytes:
        """Pseudo-header and body of a record, as they are in the file."""
        assert self._map is not None
        at = self.data_offset(index) - self._base
        return self._map[at : at + int(self.columns.length[index])]

    def data_offset(self, index: int) -> int:
        """Where in the file the pseudo-header of a record starts, in bytes."""
        assert self._map is not None
        offset = int(self.columns.offset[index])
        at = offset - self._base
        return offset + (12 if self._map[at : at + 4] in (b"\3\0\0\0", b"\0\0\0\3") else 28)

    def data_places(self) -> list[tuple[int, int]]:
        """Of each record, where its pseudo-header starts in ``mapped``, and bytes of pseudo-header and body."""
        offset, length = self.columns.offset, self.columns.length
        kinds = self.words_at(offset)
        is_short = (kinds == blocks.SIMPLE_PACKET) | (kinds == blocks.SIMPLE_PACKET << 24)
        start = offset.astype(np.int64) - self._base + np.where(is_short, 12, 28)
        return list(zip(start.tolist(), length.tolist(), strict=True))

    def words_at(self, places: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The little-endian 32-bit words at places of the file; those outside of what is mapped are 0."""
        if self._map is None:
            return np.zeros(len(places), np.uint32)
        area = np.frombuffer(self._map, np.uint8)
        at = places.astype(np.int64) - self._base
        at[(at < 0) | (at + 4 > len(area))] = -1
        parts = [area[at + shift].astype(np.uint32) << np.uint32(8 * shift) for shift in range(4)]
        found: NDArray[np.uint32] = np.where(at < 0, np.uint32(0), parts[0] | parts[1] | parts[2] | parts[3])
        return found

    def _block(self, offset: int, order: str) -> Block:
        head = os.pread(self._fd, 8, offset)
        block_type, length = struct.unpack(order + "II", head)
        if 12 <= length <= MAX_BLOCK:
            rest = os.pread(self._fd, length - 8, offset + 8)
            if len(rest) == length - 8 and struct.unpack_from(order + "I", rest, length - 12)[0] == length:
                return Block(offset, block_type, rest[:-4], order)
        # One of the lengths is wrong: the walker knows how to tell which.
        window = _Window(self._fd, offset, offset + MAX_BLOCK)
        found = next(iter(BlockWalker(window, start=offset, order=order)))
        assert isinstance(found, Block)
        return found

    def _reach(self, end: int) -> None:
        """Map the file up to a place, from where it is not forgotten."""
        if self._map is None or end - self._base > len(self._map):
            self._map = mmap.mmap(self._fd, end - self._base, access=mmap.ACCESS_READ, offset=self._base)

    def _spool(self, to_the_end: bool) -> None:
        """Move what a pipe or stream has for us into the file."""
        assert self._source is not None
        while to_the_end or is_readable(self._source):
            piece = self._source.read(_SPOOL_PIECE)
            if piece and self._spool_limit and self.file_size + len(piece) > self._spool_limit:
                self.is_full = True
            if not piece or self.is_full:
                self._source.close()
                self._source = None
                return
            try:
                write_all(self._fd, piece)
            except OSError as error:
                raise CannotSpool(f"cannot keep what {self.name} sends: {error.strerror or error}") from error

    # Indexing

    def _index(self, end: int, size: int, final: bool) -> None:
        """Walk from ``self.size`` to ``end`` in a file of ``size`` bytes, quickly where it is as we write it."""
        while self.size < end:
            if self.size and not self.size & 3 and self._sections and self._sections[-1].order == "<":
                self._walk_words(end)
                if self.size >= end or ((end < size or not final) and self._goes_beyond(end)):
                    return
            if not self._walk_blocks(end, size, final):
                return

    def _goes_beyond(self, end: int) -> bool:
        """Whether the block at ``self.size`` looks like one of which only a part is there before ``end``."""
        assert self._map is not None
        if end - self.size < 12:
            return True
        block_type, length = struct.unpack_from("<II", self._map, self.size - self._base)
        return block_type in KNOWN_TYPES and 12 <= length <= MAX_BLOCK and not length & 3 and self.size + length > end

    def _walk_words(self, end: int) -> None:
        """Follow little-endian, aligned blocks up to the first that is not whole or not sound."""
        assert self._map is not None
        count = (end - self._base) // 4
        words = np.frombuffer(self._map, "<u4", count)
        quick = memoryview(self._map)[: count * 4].cast("I")
        at = (self.size - self._base) // 4
        longest = MAX_BLOCK // 4
        while at + 3 <= count:
            starts: list[int] = []
            append = starts.append
            try:
                for _ in range(_BATCH):
                    step = quick[at + 1] >> 2
                    if not 3 <= step <= longest:
                        break
                    append(at)
                    at += step
            except IndexError:
                pass
            if starts and at > count:
                at = starts.pop()
            if not starts:
                break
            index = np.array(starts, np.int64)
            lengths = words[index + 1]
            wrong = (lengths & 3 != 0) | (words[index + (lengths >> 2) - 1] != lengths)
            if wrong.any():
                first = int(wrong.argmax())
                self._take_words(words, index[:first])
                self.size = self._base + int(index[first]) * 4
                break
            self._take_words(words, index)
            self.size = self._base + at * 4
        quick.release()

    def _take_words(self, words: Words, index: NDArray[np.int64]) -> None:
        """Take in sound blocks: packets together, and what stands between them one by one.

        A new interface, of which a capture of sockets has one for every few packets, does not part the packets.
        """
        kinds = words[index]
        is_packet = kinds == blocks.ENHANCED_PACKET
        begin = 0
        new: list[int] = []
        for other in np.flatnonzero(~is_packet).tolist():
            if int(kinds[other]) in _PARTING:
                self._take_packets(words, index[begin:other][is_packet[begin:other]], new)
                begin, new = other + 1, []
            count = self._interface_count
            self._take_block(self._block(self._base + int(index[other]) * 4, "<"))
            if self._interface_count > count:
                new.append(int(index[other]))
        self._take_packets(words, index[begin:][is_packet[begin:]], new)

    @property
    def _interface_count(self) -> int:
        return len(self._sections[-1].section.interfaces)

    def _take_packets(self, words: Words, index: NDArray[np.int64], new: list[int]) -> None:
        """Take in packets of one section; ``new`` are the places of interfaces that were described among them."""
        if len(index):
            described: NDArray[np.int64] | int = self._interface_count
            if new:
                described = described - len(new) + np.searchsorted(new, index)
            self.columns.append(len(index), gather(words, index, self._sections[-1].section, described, self._base))

    # The slow way

    def _walk_blocks(self, end: int, size: int, final: bool) -> bool:
        """Take blocks one by one until the quick way can go on; False when there is nothing more to take."""
        window = _Window(self._fd, self.size, size)
        order = self._sections[-1].order if self._sections else "<"
        for item in self._items(BlockWalker(window, self.name, start=self.size, order=order), final):
            if isinstance(item, Damage):
                if not final and item.offset + item.skipped >= size:
                    return False  # the rest of it may still come
                self.damage.append(item)
                self.size = item.offset + item.skipped
                continue
            self._take_block(item)
            self.size = item.offset + len(item.body) + 12
            self._reach(self.size)
            if item.order == "<" and not self.size & 3 and not item.remark:
                return True
            if self.size >= end:
                return False
        return False

    @staticmethod
    def _items(walker: BlockWalker, final: bool) -> Iterator[Block | Damage]:
        """What the walker finds; while more can come, the beginning of a first block is no reason to complain."""
        try:
            yield from walker
        except NotACapture:
            if final:
                raise

    def _take_block(self, block: Block) -> None:
        try:
            if block.block_type == blocks.SECTION_HEADER:
                self._begin_section(Section.parse(block), block.order)
                return
            if not self._sections:
                self._begin_section(Section(), block.order)
            section = self._sections[-1].section
            if block.block_type in PACKET_BLOCKS:
                record = packet_record(block, section.interfaces, self.first + len(self.columns) + 1)
                self.columns.append(1, describe(record))
                return
            if block.block_type not in KNOWN_TYPES and not block.block_type & LOCAL_USE:
                self.damage.append(unknown_block(block))
                return
            section.follow(block)
        except (struct.error, IndexError, ArithmeticError):
            self.damage.append(Damage(block.offset, len(block.body) + 12, "a block is too short for its type"))

    def _begin_section(self, section: Section, order: str) -> None:
        self._sections.append(_SectionStart(self.first + len(self.columns), section, order))


class _Window:
    """A part of the file, as something to read from."""

    def __init__(self, fd: int, start: int, end: int) -> None:
        self._fd = fd
        self._at = start
        self._end = end

    def read(self, size: int, /) -> bytes:
        piece = os.pread(self._fd, max(min(size, self._end - self._at), 0), self._at)
        self._at += len(piece)
        return piece

    def close(self) -> None:
        pass

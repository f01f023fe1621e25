"""Reads ``trace.dat``, the file that ``trace-cmd record`` writes: events with their fields, in the order of time.

Versions 6 and 7 of the file, uncompressed or with zlib; a file that is compressed with zstd is refused with the
command that converts it. Sources: trace-cmd's ``Documentation/trace-cmd/trace-cmd.dat.v6.5.txt`` and
``trace-cmd.dat.v7.5.txt``; the kernel's ``include/linux/ring_buffer.h`` (``struct ring_buffer_event``) and
``kernel/trace/ring_buffer.c`` (``rb_update_event``, ``RB_MISSED_EVENTS``). Only little-endian files of 64-bit kernels
are known here, as VMBus is.
"""

from __future__ import annotations

import heapq
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vmbus.capture.importers import CannotImport
from vmbus.capture.importers.trace_events import Fields, TraceEvent

MAGIC = b"\x17\x08\x44tracing"

_SYSTEMS = frozenset({"hyperv", "netvsc"})
_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_COMMIT_MASK = (1 << 27) - 1
_FIELD = re.compile(r"\s*field:(.*?)\s*(\w+)(\[.*?\])?;\s*offset:(\d+);\s*size:(\d+);\s*signed:(\d+);")

_OPTION_BUFFER, _OPTION_HEADER_INFO, _OPTION_EVENT_FORMATS = 3, 16, 18
_SECTION_COMPRESSED = 1


class _Field(NamedTuple):
    name: str
    declaration: str
    offset: int
    size: int
    signed: bool

    def read(self, record: bytes) -> int | str | bytes:
        raw = record[self.offset : self.offset + self.size]
        if "__data_loc" in self.declaration and len(raw) == 4:
            where, length = struct.unpack("<HH", raw)
            return record[where : where + length].split(b"\0")[0].decode("utf-8", "replace")
        if self.size in (1, 2, 4, 8) and "[" not in self.declaration:
            return int.from_bytes(raw, "little", signed=self.signed)
        return raw


class _Event(NamedTuple):
    system: str
    name: str
    fields: tuple[_Field, ...]


class _Page(NamedTuple):
    """Where a ring-buffer page says how much it holds, and where that begins."""

    commit_offset: int = 8
    commit_size: int = 8
    data_offset: int = 16


class _Cursor:
    """Reads the file from front to back; what is cut off is one clear error."""

    def __init__(self, path: Path, data: bytes, at: int = 0) -> None:
        self.path = path
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if size < 0 or len(piece) < size:
            raise CannotImport(f"{self.path} is cut off: {size} bytes are wanted at {self.at}")
        self.at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise CannotImport(f"{self.path} is cut off: a text does not end")
        return self.take(end - self.at + 1)[:-1].decode("utf-8", "replace")


class _TraceFile:
    """What is known of a file after its headers: the page layout, the events, and where each processor's pages are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: dict[int, _Event] = {}
        self.page = _Page()
        self.buffers: list[tuple[int, bytes]] = []
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CannotImport(f"cannot read {path}: {error.strerror}") from error
        self._data = data
        cursor = _Cursor(path, data)
        if cursor.take(len(MAGIC)) != MAGIC:
            raise CannotImport(f"{path} is not a trace.dat")
        version = cursor.text()
        if cursor.number(1) != 0 or cursor.number(1) != 8:
            raise CannotImport(f"{path} is of a big-endian or 32-bit kernel, which VMBus guests are not")
        self.page_size = cursor.number(4)
        if not 64 <= self.page_size <= 1 << 20:
            raise CannotImport(f"{path} says that its pages have {self.page_size} bytes")
        if version == "6":
            self._read_version_6(cursor)
        elif version == "7":
            self._read_version_7(cursor)
        else:
            raise CannotImport(f"{path} is a trace.dat of version {version!r}; known are 6 and 7")

    def _read_version_6(self, cursor: _Cursor) -> None:
        self._read_header_info(cursor)
        for _ in range(cursor.number(4)):  # the formats of ftrace's own events
            cursor.take(cursor.number(8))
        self._read_event_formats(cursor)
        cursor.take(cursor.number(4))  # kallsyms
        cursor.take(cursor.number(4))  # printk formats
        cursor.take(cursor.number(8))  # command lines
        processors = cursor.number(4)
        kind = cursor.take(10)
        while kind.startswith(b"options"):
            while cursor.number(2):
                cursor.take(cursor.number(4))
            kind = cursor.take(10)
        if not kind.startswith(b"flyrecord"):
            raise CannotImport(f"{self.path} holds no recorded events, but {kind.rstrip(bytes(1)).decode('latin-1')!r}")
        for processor in range(min(processors, 4096)):
            offset, size = cursor.number(8), cursor.number(8)
            self.buffers.append((processor, cursor.data[offset : offset + size]))

    def _read_version_7(self, cursor: _Cursor) -> None:
        self._compression = cursor.text()
        cursor.text()  # the version of the compression
        seen: set[int] = set()
        at = cursor.number(8)
        buffers: list[bytes] = []
        while at and at not in seen:
            seen.add(at)
            options = self._section(at)
            at = 0
            while options.at + 6 <= len(options.data):
                kind, size = options.number(2), options.number(4)
                content = options.take(size)
                if not kind:
                    at = int.from_bytes(content[:8], "little")
                    break
                if kind == _OPTION_HEADER_INFO:
                    self._read_header_info(self._section(int.from_bytes(content[:8], "little")))
                elif kind == _OPTION_EVENT_FORMATS:
                    self._read_event_formats(self._section(int.from_bytes(content[:8], "little")))
                elif kind == _OPTION_BUFFER:
                    buffers.append(content)
        for content in buffers:
            self._read_buffer_option(_Cursor(self.path, content), cursor.data)

    def _read_buffer_option(self, option: _Cursor, data: bytes) -> None:
        section = option.number(8)
        option.text()  # the instance's name
        option.text()  # its clock
        self.page_size = option.number(4) or self.page_size
        if int.from_bytes(data[section + 2 : section + 4], "little") & _SECTION_COMPRESSED:
            raise self._compressed()
        for _ in range(min(option.number(4), 4096)):
            processor, offset, size = option.number(4), option.number(8), option.number(8)
            self.buffers.append((processor, data[offset : offset + size]))

    def _section(self, at: int) -> _Cursor:
        """The contents of a section of a version 7 file, uncompressed."""
        cursor = _Cursor(self.path, self._data, at)
        _, flags, _, size = cursor.number(2), cursor.number(2), cursor.number(4), cursor.number(8)
        if not flags & _SECTION_COMPRESSED:
            return _Cursor(self.path, cursor.take(size))
        if self._compression != "zlib":
            raise self._compressed()
        content = bytearray()
        for _ in range(cursor.number(4)):
            compressed, uncompressed = cursor.number(4), cursor.number(4)
            try:
                content += zlib.decompressobj().decompress(cursor.take(compressed), uncompressed)
            except zlib.error as error:
                raise CannotImport(f"{self.path} is damaged: {error}") from error
        return _Cursor(self.path, bytes(content))

    def _compressed(self) -> CannotImport:
        return CannotImport(
            f"{self.path} is compressed ({self._compression}):"
            f" convert it with `trace-cmd convert --file-version 6 -i {self.path} -o plain.dat`"
        )

    def _read_header_info(self, cursor: _Cursor) -> None:
        cursor.text()  # "header_page"
        page = {field.name: field for field in _fields(cursor.take(cursor.number(8)).decode("utf-8", "replace"))}
        if "commit" in page and "data" in page:
            self.page = _Page(page["commit"].offset, page["commit"].size, page["data"].offset)
        cursor.text()  # "header_event"
        cursor.take(cursor.number(8))

    def _read_event_formats(self, cursor: _Cursor) -> None:
        for _ in range(cursor.number(4)):
            system = cursor.text()
            for _ in range(cursor.number(4)):
                text = cursor.take(cursor.number(8)).decode("utf-8", "replace")
                name, number = re.search(r"^name: (\S+)", text, re.M), re.search(r"^ID: (\d+)", text, re.M)
                if name and number and system in _SYSTEMS:
                    self.events[int(number[1])] = _Event(system, name[1], tuple(_fields(text)))


def _fields(text: str) -> Iterator[_Field]:
    for match in _FIELD.finditer(text):
        declaration = match[1] + (match[3] or "")
        yield _Field(match[2], declaration, int(match[4]), int(match[5]), match[6] == "1")


def _events_of_processor(file: _TraceFile, processor: int, data: bytes) -> Iterator[TraceEvent]:
    for start in range(0, len(data) - file.page.data_offset, file.page_size):
        page = data[start : start + file.page_size]
        time_ns = int.from_bytes(page[:8], "little")
        commit = int.from_bytes(
            page[file.page.commit_offset : file.page.commit_offset + file.page.commit_size], "little"
        )
        end = min(file.page.data_offset + (commit & _COMMIT_MASK), len(page))
        at = file.page.data_offset
        while at + 4 <= end:
            (head,) = struct.unpack_from("<I", page, at)
            kind, delta = head & 31, head >> 5
            (word,) = struct.unpack_from("<I", page, at + 4) if at + 8 <= end else (0,)
            if kind == _PADDING:
                if not delta:
                    break
                time_ns += delta
                at += 4 + word
            elif kind == _TIME_EXTEND:
                time_ns += delta | word << 27
                at += 8
            elif kind == _TIME_STAMP:
                time_ns = (time_ns & 0x1F << 59) | delta | word << 27
                at += 8
            else:
                time_ns += delta
                content, length = (at + 8, word - 4) if not kind else (at + 4, kind * 4)
                if length < 0 or content + length > end:
                    break
                event = _decode(file, processor, time_ns, page[content : content + length])
                if event is not None:
                    yield event
                at = content + ((length + 3) & ~3)


def _decode(file: _TraceFile, processor: int, time_ns: int, record: bytes) -> TraceEvent | None:
    described = file.events.get(int.from_bytes(record[:2], "little"))
    if described is None:
        return None
    fields: Fields = {
        field.name: field.read(record) for field in described.fields if not field.name.startswith("common_")
    }
    text = " ".join(f"{name}={value!r}" for name, value in fields.items())
    return TraceEvent(time_ns, processor, described.system, described.name, fields, text)


def events_of_dat(path: Path) -> Iterator[TraceEvent]:
    """The events of the systems hyperv and netvsc in a ``trace.dat``, of all processors, by time."""
    file = _TraceFile(path)
    streams = [_events_of_processor(file, processor, data) for processor, data in file.buffers]
    yield from heapq.merge(*streams, key=lambda event: event.time_ns)

"""Dynamic memory: the balloon and memory hot-add, in raw packets.

The guest asks for a version, reports what it can do, and then how much memory it has committed; the host asks for
pages back (balloon), returns them, or adds new ones.

Source: Linux 6.12 ``drivers/hv/hv_balloon.c`` (``dm_*``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, bits, items, nested, rest, u16, u32, u64, variant


class MemoryVersion(OpenEnum):
    """Major version in the high half, minor in the low one."""

    WIN7 = 0x00000003
    WIN8 = 0x00010000
    WIN10 = 0x00020000


class MemoryMessageType(OpenEnum):
    """What a packet is; the last one came with 1.0."""

    ERROR = 0
    VERSION_REQUEST = 1
    VERSION_RESPONSE = 2
    CAPABILITIES_REPORT = 3
    CAPABILITIES_RESPONSE = 4
    STATUS_REPORT = 5
    BALLOON_REQUEST = 6
    BALLOON_RESPONSE = 7
    UNBALLOON_REQUEST = 8
    UNBALLOON_RESPONSE = 9
    MEM_HOT_ADD_REQUEST = 10
    MEM_HOT_ADD_RESPONSE = 11
    INFO_MESSAGE = 12


class InfoType(OpenEnum):
    """What an information message tells."""

    MAX_PAGE_COUNT = 0


class PageRange(Format):
    """Guest pages."""

    start_page: int = bits(40, of=64, doc="the first page's number")
    page_count: int = bits(24, unit="pages")


class MemoryVersionRequest(Format):
    """Guest to host."""

    version: MemoryVersion = u32(MemoryVersion)
    is_last_attempt: int = bits(1, of=32, doc="the guest has no other version to offer")
    reserved: int = bits(31, default=0)


class MemoryVersionResponse(Format):
    """Host to guest."""

    is_accepted: int = bits(1, of=64)
    reserved: int = bits(63, default=0)


class Capabilities(Format):
    """Guest to host."""

    balloon: int = bits(1, of=64)
    hot_add: int = bits(1)
    hot_add_alignment: int = bits(4, doc="n: hot-added ranges start at multiples of 2**n MiB")
    reserved: int = bits(58, default=0)
    min_page_count: int = u64(unit="pages", doc="the least that the guest gets by with")
    max_page_number: int = u64()


class CapabilitiesResponse(Format):
    """Host to guest; not accepted means that the guest shuts the service down."""

    is_accepted: int = bits(1, of=64)
    reserved: int = bits(63, default=0)


class StatusReport(Format):
    """Guest to host, about once a second; nothing answers. Hosts only use ``num_committed``."""

    num_available: int = u64(unit="pages")
    num_committed: int = u64(unit="pages")
    page_file_size: int = u64(unit="pages")
    zero_free: int = u64(unit="pages")
    page_file_writes: int = u32(unit="pages")
    io_diff: int = u32(unit="pages", doc="page cache faults less page reads")


class BalloonRequest(Format):
    """Host to guest: give up that many pages, or as many as you can."""

    num_pages: int = u32(unit="pages")
    reserved: int = u32(default=0)


class BalloonResponse(Format):
    """Guest to host: the pages given up."""

    reserved: int = u32(default=0)
    more_pages: int = bits(1, of=32, doc="another response to the same request follows")
    range_count: int = bits(31)
    range_array: tuple[PageRange, ...] = items(PageRange, count="range_count")


class UnballoonRequest(Format):
    """Host to guest: pages to take back into use."""

    more_pages: int = bits(1, of=32, doc="another request of the same transaction follows")
    reserved: int = bits(31, default=0)
    range_count: int = u32()
    range_array: tuple[PageRange, ...] = items(PageRange, count="range_count")


class UnballoonResponse(Format):
    """Guest to host, after the last request of a transaction."""


class HotAddRequest(Format):
    """Host to guest: new pages."""

    range: PageRange = nested(PageRange)


class HotAddRequestWithRegion(HotAddRequest):
    """The same, with the region that the host wants to fill in time (Linux tells it by the message's size)."""

    region: PageRange = nested(PageRange)


class HotAddResponse(Format):
    """Guest to host. Fewer pages than were offered mean that the guest can add no more."""

    page_count: int = u32(unit="pages")
    result: int = u32(doc="1: success")


class MaxPageCount(Format):
    """The most memory that the guest will ever have."""

    max_page_count: int = u64(unit="pages")


class InfoMessage(Format):
    """Host to guest."""

    reserved: int = u32(default=0)
    info_size: int = u32(unit="bytes", doc="of what follows")
    info_type: InfoType = u32(InfoType)
    data_size: int = u32(unit="bytes")
    info: Format | bytes = variant(on="info_type", cases={InfoType.MAX_PAGE_COUNT: MaxPageCount}, length="data_size")


MEMORY_BODIES: dict[int, type[Format] | tuple[type[Format], ...]] = {
    MemoryMessageType.VERSION_REQUEST: MemoryVersionRequest,
    MemoryMessageType.VERSION_RESPONSE: MemoryVersionResponse,
    MemoryMessageType.CAPABILITIES_REPORT: Capabilities,
    MemoryMessageType.CAPABILITIES_RESPONSE: CapabilitiesResponse,
    MemoryMessageType.STATUS_REPORT: StatusReport,
    MemoryMessageType.BALLOON_REQUEST: BalloonRequest,
    MemoryMessageType.BALLOON_RESPONSE: BalloonResponse,
    MemoryMessageType.UNBALLOON_REQUEST: UnballoonRequest,
    MemoryMessageType.UNBALLOON_RESPONSE: UnballoonResponse,
    MemoryMessageType.MEM_HOT_ADD_REQUEST: (HotAddRequest, HotAddRequestWithRegion),
    MemoryMessageType.MEM_HOT_ADD_RESPONSE: HotAddResponse,
    MemoryMessageType.INFO_MESSAGE: InfoMessage,
}


class MemoryMessage(Format):
    """Any packet of a dynamic memory channel, in either direction."""

    message_type: MemoryMessageType = u16(MemoryMessageType)
    message_size: int = u16(unit="bytes", doc="of this header and the body")
    transaction_id: int = u32(doc="the guest counts; the host repeats it")
    body: Format | bytes = variant(on="message_type", cases=MEMORY_BODIES)
    trailing: bytes = rest()

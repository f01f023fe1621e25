"""The life of a channel as one object: offer, GPADLs, open, subchannels, close, rescind, release, and their records."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from dissectors.engine.dialect import Dialect
from vmbus.wire.schema import NIL_GUID


@dataclass
class GpadlLife:
    """Memory that the guest announced for a channel."""

    gpadl_id: int
    channel_id: int
    range_bytes: int
    announced: int
    """Number of the record with the header."""
    received_bytes: int = 0
    """Bytes of ranges that came in the header and the bodies."""
    created: int = 0
    status: int | None = None
    teardown: int = 0
    torn_down: int = 0

    @property
    def is_complete(self) -> bool:
        return self.received_bytes >= self.range_bytes


@dataclass
class ChannelLife:
    """One channel from its offer to its release. Times are records' numbers; 0 means that it was not seen."""

    channel_id: int
    name: str = ""
    """Short: ``scsi``, ``net``, ``scsi/1`` for a subchannel; ``unknown`` when the offer was not seen."""
    interface_id: UUID = NIL_GUID
    instance_id: UUID = NIL_GUID
    subchannel_index: int = 0
    flags: int = 0
    connection_id: int = 0
    monitor_id: int | None = None
    offered: int = 0
    open_requested: int = 0
    opened: int = 0
    open_status: int | None = None
    ring_gpadl_id: int = 0
    target_vp: int = 0
    closed: int = 0
    rescinded: int = 0
    released: int = 0
    unloaded: int = 0
    """When the guest let go of the whole connection."""
    gpadls: dict[int, GpadlLife] = field(default_factory=dict)
    """Living ones, by id."""
    past_gpadls: list[GpadlLife] = field(default_factory=list)
    """Those that were torn down, in that order."""
    primary: ChannelLife | None = field(default=None, repr=False, compare=False)
    """Of a subchannel: the channel of its device that was offered first, if that was seen."""
    subchannels: list[ChannelLife] = field(default_factory=list, repr=False, compare=False)
    """All that were offered during this life, in that order."""
    history: list[tuple[int, int, str]] = field(default_factory=list)
    """Record number, time in nanoseconds, and what happened."""
    dialect: Dialect = field(default_factory=Dialect)

    @property
    def state(self) -> str:
        """Where in its life it is, in one word."""
        if self.released:
            return "released"
        if self.unloaded:
            return "unloaded"
        if self.rescinded:
            return "rescinded"
        if self.closed:
            return "closed"
        if self.opened:
            return "open"
        if self.open_requested:
            return "opening"
        return "offered" if self.offered else "unknown"

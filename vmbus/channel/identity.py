"""Which channel it is, and what went through it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class ChannelIdentity:
    """Which channel this is: what its offer said and how it was opened."""

    channel_id: int
    interface_id: UUID
    instance_id: UUID
    subchannel_index: int = 0
    user_defined: bytes = b""
    open_data: bytes = b""
    """The 120 bytes that the guest gave when it opened the channel."""


@dataclass(slots=True)
class ChannelCounters:
    """What went through a channel, for people to look at."""

    packets_in: int = 0
    packets_out: int = 0
    signals_in: int = 0
    signals_out: int = 0
    backlog_peak: int = 0

"""The time synchronization service: the host's clock, as samples and as orders to follow.

Version 4.0 brought a message with a reference time in place of the round-trip time; 1.0 and 3.0 have the older one.

Sources: openvmm ``hyperv_ic_protocol/src/timesync.rs``; Linux 6.12 ``include/linux/hyperv.h`` (``ictimesync_data``,
``ictimesync_ref_data``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenFlags
from vmbus.wire.schema import Format, rest, u8, u64

EPOCH_OFFSET = 116_444_736_000_000_000
"""From 1601-01-01 to 1970-01-01 UTC, in units of 100 ns (Linux: ``WLTIMEDELTA``)."""


class TimesyncFlags(OpenFlags):
    """What the guest is to do; 0 is a probe."""

    SYNC = 1
    SAMPLE = 2


class TimesyncMessage(Format):
    """Before 4.0."""

    parent_time: int = u64(unit="100 ns", doc="the host's clock, since 1601-01-01 UTC")
    child_time: int = u64(default=0, unit="100 ns", doc="not used")
    round_trip_time: int = u64(default=0, unit="100 ns", doc="as the host measured it")
    flags: TimesyncFlags = u8(TimesyncFlags)
    reserved: bytes = rest()


class TimesyncReferenceMessage(Format):
    """From 4.0 on."""

    parent_time: int = u64(unit="100 ns", doc="the host's clock, since 1601-01-01 UTC")
    vm_reference_time: int = u64(unit="100 ns", doc="the guest's reference counter at that moment")
    flags: TimesyncFlags = u8(TimesyncFlags)
    leap_indicator: int = u8(default=0, doc="as NTP has it")
    stratum: int = u8(default=0, doc="as NTP has it")
    reserved: bytes = rest()

"""The shutdown service: the host asks the guest to power off, restart or hibernate.

Versions: 1.0, 3.0, 3.1 (restart), 3.2 (hibernate); all with one layout.

Sources: openvmm ``hyperv_ic_protocol/src/shutdown.rs``; Linux 6.12 ``include/linux/hyperv.h`` (``shutdown_msg_data``)
and ``drivers/hv/hv_util.c`` (``shutdown_onchannelcallback``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenFlags
from vmbus.wire.schema import Format, raw, u32


class ShutdownFlags(OpenFlags):
    """What the guest is to do; without RESTART or HIBERNATE, to power off."""

    FORCE = 1
    RESTART = 2
    HIBERNATE = 4


class ShutdownReason(OpenFlags):
    """The one bit of Windows' reason codes that hosts send."""

    PLANNED = 0x80000000


class ShutdownMessage(Format):
    """The request; the answer has the same body and tells by its header's status whether the guest will."""

    reason_code: ShutdownReason = u32(ShutdownReason, default=ShutdownReason.PLANNED)
    timeout_seconds: int = u32(default=0, unit="s", doc="the time that the guest has")
    flags: ShutdownFlags = u32(ShutdownFlags, default=0)
    message: bytes = raw(2048, default=b"", doc="text to show; openvmm leaves it empty")

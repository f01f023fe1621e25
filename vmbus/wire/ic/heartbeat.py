"""The heartbeat service: every two seconds the host sends a number, and the guest answers with the next.

Sources: openvmm ``hyperv_ic_protocol/src/heartbeat.rs``; Linux 6.12 ``include/linux/hyperv.h``
(``heartbeat_msg_data``) and ``drivers/hv/hv_util.c`` (``heartbeat_onchannelcallback``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, rest, u32, u64


class ApplicationState(OpenEnum):
    """How the guest is; Linux leaves what the host wrote."""

    UNKNOWN = 0
    HEALTHY = 1
    CRITICAL = 2
    STOPPED = 3


class HeartbeatMessage(Format):
    """The same layout in both directions and in versions 1.0 and 3.0."""

    sequence_number: int = u64(doc="the guest adds one")
    application_state: ApplicationState = u32(ApplicationState, default=0)
    reserved: bytes = rest(doc="4 bytes in openvmm, 28 in Linux's structure")

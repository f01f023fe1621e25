"""Which fields of bytes hold a format of their own: command blocks, sense data, the user-defined bytes of an offer."""

from __future__ import annotations

from dissectors.engine.layers import Inside
from vmbus.wire import scsi
from vmbus.wire.offer import OfferChannel, OfferChannelPre7, OfferFlags, user_defined_format
from vmbus.wire.schema import Format
from vmbus.wire.scsi.sense import DescriptorSense, FixedSense
from vmbus.wire.vstor import ScsiRequestV1, ScsiResultV1

_PIPE, _SOCKET = int(OfferFlags.NAMED_PIPE_MODE), int(OfferFlags.TLNPI_PROVIDER)

_USER_DEFINED = Inside(
    on=f"flags & {_PIPE | _SOCKET}",
    cases={flags: fmt for flags in (_PIPE, _SOCKET, _PIPE | _SOCKET) if (fmt := user_defined_format(flags))},
)

_COMMANDS = {code: scsi.cdb_format(bytes([code])) for code in range(256)}
_SENSE: dict[int, type[Format]] = {0x70: FixedSense, 0x71: FixedSense, 0x72: DescriptorSense, 0x73: DescriptorSense}

INSIDE: dict[tuple[type[Format], str], Inside] = {
    (OfferChannel, "user_defined"): _USER_DEFINED,
    (OfferChannelPre7, "user_defined"): _USER_DEFINED,
    (ScsiRequestV1, "cdb"): Inside(cases=_COMMANDS),
    (ScsiResultV1, "sense"): Inside(cases=_SENSE, mask=0x7F),
}

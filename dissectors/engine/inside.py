"""Which fields of bytes hold a format of their own: command blocks, sense data, the user-defined bytes of an offer."""

from __future__ import annotations

from dissectors.engine.layers import Inside
from vmbus.wire.offer import HvsockUserDefined, OfferChannel, OfferChannelPre7, OfferFlags, PipeUserDefined
from vmbus.wire.schema import Format

_PIPE, _SOCKET = int(OfferFlags.NAMED_PIPE_MODE), int(OfferFlags.TLNPI_PROVIDER)

_USER_DEFINED = Inside(
    on=f"flags & {_PIPE | _SOCKET}",
    cases={_PIPE: PipeUserDefined, _SOCKET: HvsockUserDefined, _PIPE | _SOCKET: HvsockUserDefined},
)

INSIDE: dict[tuple[type[Format], str], Inside] = {
    (OfferChannel, "user_defined"): _USER_DEFINED,
    (OfferChannelPre7, "user_defined"): _USER_DEFINED,
}

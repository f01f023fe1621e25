"""What the channels of an offer speak.

Most protocols are nothing but formats (``plain``); a protocol whose packets hang together in ways of their own has a
file here and a line in :data:`SPECIAL`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dissectors.engine.dialect import Dialect
from dissectors.engine.dialects.crash import CrashDump
from dissectors.engine.dialects.network import Network
from dissectors.engine.dialects.plain import Plain
from dissectors.engine.dialects.storage import Storage
from vmbus.wire.offer import OfferFlags
from vmbus.wire.protocols import Framing, Protocol

if TYPE_CHECKING:
    from dissectors.engine.channels import ChannelLife

SPECIAL: dict[str, Callable[[ChannelLife], Dialect]] = {
    "scsi": Storage,
    "ide": Storage,
    "fc": Storage,
    "net": Network,
    "crash": CrashDump,
}
"""By the protocol's abbreviation."""

UNKNOWN_PIPE = Protocol("pipe", "a pipe of an unknown device", Framing.MESSAGES, None, None)
"""What is known of a device that is offered as a pipe and that nobody has described."""


def dialect_for(protocol: Protocol | None, channel: ChannelLife) -> Dialect:
    """A new dialect object for one channel; of unknown devices one that shows rings, pipes and payloads."""
    if protocol is None:
        is_pipe = channel.flags & OfferFlags.NAMED_PIPE_MODE
        return Plain(channel, UNKNOWN_PIPE) if is_pipe else Dialect(channel)
    special = SPECIAL.get(protocol.abbreviation)
    return special(channel) if special is not None else Plain(channel, protocol)

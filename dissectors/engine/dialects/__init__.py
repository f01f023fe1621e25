"""What the channels of an offer speak.

Most protocols are nothing but formats (``plain``); a protocol whose packets hang together in ways of their own has a
file here and a line in :data:`SPECIAL`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dissectors.engine.dialect import Dialect
from dissectors.engine.dialects.network import Network
from dissectors.engine.dialects.plain import Plain
from dissectors.engine.dialects.storage import Storage
from vmbus.wire.protocols import Protocol

if TYPE_CHECKING:
    from dissectors.engine.channels import ChannelLife

SPECIAL: dict[str, Callable[[ChannelLife], Dialect]] = {
    "scsi": Storage,
    "ide": Storage,
    "fc": Storage,
    "net": Network,
}
"""By the protocol's abbreviation."""


def dialect_for(protocol: Protocol | None, channel: ChannelLife) -> Dialect:
    """A new dialect object for one channel; of unknown devices one that shows rings and payloads."""
    if protocol is None:
        return Dialect(channel)
    special = SPECIAL.get(protocol.abbreviation)
    return special(channel) if special is not None else Plain(channel, protocol)

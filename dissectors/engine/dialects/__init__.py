"""The dialects by the interface of a channel's offer. A new protocol is one new file here and one line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from dissectors.engine.dialect import Dialect
from dissectors.engine.dialects.network import Network
from dissectors.engine.dialects.storage import Storage
from vmbus.wire import guids

if TYPE_CHECKING:
    from dissectors.engine.channels import ChannelLife

DIALECTS: dict[UUID, type[Dialect]] = {
    guids.SCSI: Storage,
    guids.IDE: Storage,
    guids.FIBRE_CHANNEL: Storage,
    guids.NETWORK: Network,
}


def dialect_for(interface_id: UUID, channel: ChannelLife) -> Dialect:
    """A new dialect object for one channel; of unknown devices one that shows rings and payloads."""
    return DIALECTS.get(interface_id, Dialect)(channel)

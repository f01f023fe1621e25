"""What a guest does: its state machines, as tables, and how VMBus works seen from the guest.

Theory of operation
===================

Read ``host_states`` first: it says what the messages are for.  A guest sees the same conversation from the other
side, and has to keep different things in order.

**It asks, the host answers.**  The guest begins every exchange but two: the host offers and rescinds when it
likes.  So each state below either waits for one certain answer or for nothing, and an answer that nobody waits
for is a violation. A confidential guest must not believe its host, so none of them may do more harm than to be
reported.

**Contact.**  The guest tries versions from the newest to the oldest until one is spoken.  From 5.0 on it posts
the first message to connection 4 (from VTL 2: the redirected one), and the answer says where its further messages
go; before, that is connection 1.  Without asking for offers it has a connection and no channels, so the client
asks at once.

**A channel's life.**  Offer; a GPADL for its rings; open; packets; close; teardown.  The guest's close takes
effect at once, since the host does not answer it.  When the host rescinds, whatever state the channel is in, the
driver has to come to its end: close, tear down, and last of all ``release``, after which the id may mean another
device.  The release waits for the answers that are still due (openvmm ``try_release``), because an id must not
come back to life in the middle of a conversation.

**Memory.**  GPADL ids are the guest's own, and this client never uses one again while the host may still know it.

Linux counts them up from 0xE1E10, and so do we: it makes captures of the two look alike.

Sources: openvmm ``vmbus_client/src/lib.rs`` (``ClientState``, ``ChannelState``, ``GpadlState`` and their functions);
Linux 6.12 ``drivers/hv/connection.c``, ``channel_mgmt.c``, ``channel.c``; mu_msvm ``MsvmPkg/VmbusDxe/VmbusRoot.c``.
"""

from __future__ import annotations

from enum import Enum

from vmbus.control.transitions import Step, Table


class GuestConnection(Enum):
    """The guest's connection to its host."""

    DISCONNECTED = "there is none"
    CONNECTING = "a version was asked for"
    GETTING_OFFERS = "a version is agreed, the offers are coming"
    CONNECTED = "all offers have come; more may come at any time"
    DISCONNECTING = "the guest has ended it, the host has not confirmed"


GUEST_CONNECTION: Table[GuestConnection] = {
    GuestConnection.DISCONNECTED: {
        Step.CONTACT: GuestConnection.CONNECTING,
    },
    GuestConnection.CONNECTING: {
        Step.ACCEPTED: GuestConnection.GETTING_OFFERS,
        Step.DECLINED: GuestConnection.DISCONNECTED,
        Step.UNLOAD: GuestConnection.DISCONNECTING,
    },
    GuestConnection.GETTING_OFFERS: {
        Step.DELIVERED: GuestConnection.CONNECTED,
        Step.UNLOAD: GuestConnection.DISCONNECTING,
    },
    GuestConnection.CONNECTED: {
        Step.UNLOAD: GuestConnection.DISCONNECTING,
    },
    GuestConnection.DISCONNECTING: {
        Step.DRAINED: GuestConnection.DISCONNECTED,
    },
}


class GuestChannel(Enum):
    """A channel at the guest's end."""

    OFFERED = "the host has it, nobody uses it"
    OPENING = "the guest asked to open it"
    OPEN = "it is in use"
    OPENING_RESERVED = "the guest asked to open it outside the connection"
    OPEN_RESERVED = "it is in use outside the connection"
    CLOSING_RESERVED = "the guest asked to close it outside the connection"
    RESCINDED = "the host took it back; the driver has not let go"
    GONE = "the guest has let go of it"


GUEST_CHANNEL: Table[GuestChannel] = {
    GuestChannel.OFFERED: {
        Step.OPEN: GuestChannel.OPENING,
        Step.OPEN_RESERVED: GuestChannel.OPENING_RESERVED,
        Step.RESCIND: GuestChannel.RESCINDED,
        Step.RELEASE: GuestChannel.GONE,
    },
    GuestChannel.OPENING: {
        Step.OPENED: GuestChannel.OPEN,
        Step.OPEN_FAILED: GuestChannel.OFFERED,
        Step.RESCIND: GuestChannel.RESCINDED,
    },
    GuestChannel.OPEN: {
        Step.CLOSE: GuestChannel.OFFERED,
        Step.RESCIND: GuestChannel.RESCINDED,
    },
    GuestChannel.OPENING_RESERVED: {
        Step.OPENED: GuestChannel.OPEN_RESERVED,
        Step.OPEN_FAILED: GuestChannel.OFFERED,
        Step.RESCIND: GuestChannel.RESCINDED,
    },
    GuestChannel.OPEN_RESERVED: {
        Step.CLOSE_RESERVED: GuestChannel.CLOSING_RESERVED,
        Step.RESCIND: GuestChannel.RESCINDED,
    },
    GuestChannel.CLOSING_RESERVED: {
        Step.CLOSED: GuestChannel.OFFERED,
        Step.RESCIND: GuestChannel.RESCINDED,
    },
    GuestChannel.RESCINDED: {
        # A driver that has not noticed yet closes all the same.
        Step.CLOSE: GuestChannel.RESCINDED,
        Step.CLOSE_RESERVED: GuestChannel.RESCINDED,
        Step.RELEASE: GuestChannel.GONE,
    },
    GuestChannel.GONE: {},
}

RESERVED = frozenset({GuestChannel.OPENING_RESERVED, GuestChannel.OPEN_RESERVED, GuestChannel.CLOSING_RESERVED})
"""States of a channel that outlives the connection."""


class GuestGpadl(Enum):
    """A GPADL at the guest's end."""

    CREATING = "the host has not answered"
    CREATED = "the host may use the memory"
    TEARING_DOWN = "the host has not let go of it"
    GONE = "the memory is the guest's alone again"


GUEST_GPADL: Table[GuestGpadl] = {
    GuestGpadl.CREATING: {
        Step.CREATED: GuestGpadl.CREATED,
        Step.REFUSED: GuestGpadl.GONE,
    },
    GuestGpadl.CREATED: {
        Step.TEARDOWN: GuestGpadl.TEARING_DOWN,
    },
    GuestGpadl.TEARING_DOWN: {
        Step.TORN_DOWN: GuestGpadl.GONE,
    },
    GuestGpadl.GONE: {},
}

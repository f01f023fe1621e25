"""What a host does: its three state machines, as tables, and how VMBus works seen from the host.

Theory of operation
===================

VMBus joins a host, which has devices, and a guest, which has drivers.  Data goes through **channels**: each is a
pair of ring buffers in the guest's own memory and a signal in each direction.  What a channel is, and when it may
be used, is agreed by **control messages**, at most 240 bytes each, that the hypervisor carries: the guest posts to
a connection id, the host puts its own into the message slot of a SINT (a synthetic interrupt source) of one virtual
processor.  This module is about those messages only.

**Contact.**  The guest says INITIATE_CONTACT with the version it would like.  The host speaks it or says no; then
the guest tries an older one.  There is no bargaining beyond that, except for the feature flags of 6.0: the host
answers with the subset it has too.  The contact also tells the host which processor gets its messages, where the
two monitor pages are (bits that the guest sets instead of making a hypercall), and before 2.4 where the shared
interrupt page is.  A second contact ends the first connection: that is how a kernel that was started by a crashing
one begins.

**Offers.**  After REQUEST_OFFERS the host sends one OFFER_CHANNEL for every channel it has, then
ALL_OFFERS_DELIVERED; what comes later is hot-added.  An offer names the kind of device (interface id), which one it
is (instance id), a **channel id** and the connection id that the guest signals.  A channel with the same two ids
and a subchannel index above 0 is another pair of rings for the same device.

**Memory.**  A guest shares pages by a GPADL (guest physical address descriptor list), which it numbers itself: a
GPADL_HEADER, as many GPADL_BODY as the page numbers need, and the host's GPADL_CREATED.  It belongs to one channel.
The guest must not reuse the pages until the host has answered GPADL_TEARDOWN with GPADL_TORNDOWN.

**Open.**  OPEN_CHANNEL names the GPADL whose pages are the two rings, guest-to-host first.  The device says whether
it will; OPEN_CHANNEL_RESULT carries that.  CLOSE_CHANNEL has no answer: the guest may open again at once, and the
host has to keep the order.

**Rescind.**  A host that takes a device away says RESCIND_CHANNEL_OFFER.  The channel id stays taken until the
guest, in its own time, says REL_ID_RELEASED; until then the guest may still close and tear down, and the host says
yes to everything. A host that wants to offer the same device again waits for the release: Linux drops a second
offer of a device that it still has (``vmbus_process_offer``).

**The end.**  UNLOAD lets go of everything at once.  The host waits for its devices, then says UNLOAD_COMPLETE.

**Reserved channels** stand outside of this: a crash dump or hibernation opens one with OPEN_RESERVED_CHANNEL when
the rest of the guest's VMBus is in ruins, its answers go to a slot that it names, and unload does not touch it.

A guest may be hostile.  Every message is checked against these tables; what is not in them is dropped and reported,
never obeyed halfway, and never an exception.

Sources: openvmm ``vmbus_server/src/channels.rs`` (``ConnectionState``, ``ChannelState``, ``GpadlState`` and the
functions that change them); the guest's view: Linux ``drivers/hv/{connection,channel_mgmt,channel}.c``.
"""

from __future__ import annotations

from enum import Enum

from vmbus.control.transitions import Step, Table


class HostConnection(Enum):
    """The host's connection to the guest."""

    DISCONNECTED = "no guest is connected"
    CONNECTING = "a version was asked for; our own side still has to confirm it"
    CONNECTED = "a version is agreed"
    DISCONNECTING = "the connection is over, devices are still letting go"


HOST_CONNECTION: Table[HostConnection] = {
    HostConnection.DISCONNECTED: {
        Step.CONTACT: HostConnection.CONNECTING,
        Step.UNLOAD: HostConnection.DISCONNECTED,
        Step.RESET: HostConnection.DISCONNECTING,
    },
    HostConnection.CONNECTING: {
        Step.ACCEPTED: HostConnection.CONNECTED,
        Step.DECLINED: HostConnection.DISCONNECTED,
        # What ends a connection that is not there yet waits until it is.
        Step.CONTACT: HostConnection.CONNECTING,
        Step.UNLOAD: HostConnection.CONNECTING,
        Step.RESET: HostConnection.CONNECTING,
    },
    HostConnection.CONNECTED: {
        Step.CONTACT: HostConnection.DISCONNECTING,
        Step.UNLOAD: HostConnection.DISCONNECTING,
        Step.RESET: HostConnection.DISCONNECTING,
    },
    HostConnection.DISCONNECTING: {
        Step.CONTACT: HostConnection.DISCONNECTING,
        Step.UNLOAD: HostConnection.DISCONNECTING,
        Step.RESET: HostConnection.DISCONNECTING,
        Step.DRAINED: HostConnection.DISCONNECTED,
    },
}


class HostChannel(Enum):
    """A channel at the host's end."""

    RELEASED = "there is an offer, and the guest does not know of it"
    OFFERED = "the guest knows of it"
    OPENING = "the guest asked to open it, the device has not answered"
    OPEN = "guest and device use it"
    CLOSING = "the guest closed it, the device has not let go"
    REOPENING = "the guest closed it and asked to open it again, the device has not let go"
    RESCINDED = "the host took it back, the guest has not let go"
    REOFFERED = "the same, and the host offers the device again as soon as the guest has let go"
    OPENING_RELEASED = "the guest has let go, the device has not answered the open"
    CLOSING_RELEASED = "the guest has let go, the device has not"
    GONE = "there is no such offer any more"

    @property
    def is_released(self) -> bool:
        """The guest has no reference to it and must not use its id."""
        return self in _UNREFERENCED

    @property
    def is_rescinded(self) -> bool:
        """Only the guest still has it."""
        return self in (HostChannel.RESCINDED, HostChannel.REOFFERED)


_UNREFERENCED = frozenset({HostChannel.RELEASED, HostChannel.OPENING_RELEASED, HostChannel.CLOSING_RELEASED})

HOST_CHANNEL: Table[HostChannel] = {
    HostChannel.RELEASED: {
        Step.OFFER: HostChannel.OFFERED,
        Step.RESCIND: HostChannel.GONE,
        Step.DISCONNECT: HostChannel.RELEASED,
        Step.RESET: HostChannel.RELEASED,
    },
    HostChannel.OFFERED: {
        Step.OPEN: HostChannel.OPENING,
        Step.OPEN_RESERVED: HostChannel.OPENING,
        Step.RESCIND: HostChannel.RESCINDED,
        Step.RELEASE: HostChannel.RELEASED,
        Step.DISCONNECT: HostChannel.RELEASED,
        Step.RESET: HostChannel.RELEASED,
    },
    HostChannel.OPENING: {
        Step.OPENED: HostChannel.OPEN,
        Step.OPEN_FAILED: HostChannel.OFFERED,
        Step.RESCIND: HostChannel.RESCINDED,
        Step.DISCONNECT: HostChannel.OPENING_RELEASED,
        # A reset does not wait: the device may be stopped already (openvmm client_release_channel).
        Step.RESET: HostChannel.RELEASED,
    },
    HostChannel.OPEN: {
        Step.CLOSE: HostChannel.CLOSING,
        Step.CLOSE_RESERVED: HostChannel.CLOSING,
        Step.RESCIND: HostChannel.RESCINDED,
        Step.DISCONNECT: HostChannel.CLOSING_RELEASED,
        Step.RESET: HostChannel.CLOSING_RELEASED,
    },
    HostChannel.CLOSING: {
        # There is no answer to a close, so an open may come before the device has let go.
        Step.OPEN: HostChannel.REOPENING,
        # The same for a reserved channel, but nobody could end that wait: it is refused.
        Step.OPEN_RESERVED: HostChannel.CLOSING,
        Step.CLOSED: HostChannel.OFFERED,
        Step.RESCIND: HostChannel.RESCINDED,
        Step.RELEASE: HostChannel.CLOSING_RELEASED,
        Step.DISCONNECT: HostChannel.CLOSING_RELEASED,
        Step.RESET: HostChannel.CLOSING_RELEASED,
    },
    HostChannel.REOPENING: {
        Step.CLOSED: HostChannel.OPENING,
        Step.RESCIND: HostChannel.RESCINDED,
        Step.DISCONNECT: HostChannel.CLOSING_RELEASED,
        Step.RESET: HostChannel.CLOSING_RELEASED,
    },
    HostChannel.RESCINDED: {
        Step.OFFER: HostChannel.REOFFERED,
        Step.OPEN: HostChannel.RESCINDED,
        Step.OPEN_RESERVED: HostChannel.RESCINDED,
        Step.CLOSE: HostChannel.RESCINDED,
        Step.CLOSE_RESERVED: HostChannel.RESCINDED,
        Step.RELEASE: HostChannel.GONE,
        Step.DISCONNECT: HostChannel.GONE,
        Step.RESET: HostChannel.GONE,
    },
    HostChannel.REOFFERED: {
        Step.OPEN: HostChannel.REOFFERED,
        Step.OPEN_RESERVED: HostChannel.REOFFERED,
        Step.CLOSE: HostChannel.REOFFERED,
        Step.CLOSE_RESERVED: HostChannel.REOFFERED,
        Step.RESCIND: HostChannel.RESCINDED,
        Step.RELEASE: HostChannel.OFFERED,
        Step.DISCONNECT: HostChannel.RELEASED,
        Step.RESET: HostChannel.RELEASED,
    },
    HostChannel.OPENING_RELEASED: {
        Step.OPENED: HostChannel.CLOSING_RELEASED,
        Step.OPEN_FAILED: HostChannel.RELEASED,
        Step.RESCIND: HostChannel.GONE,
        Step.DISCONNECT: HostChannel.OPENING_RELEASED,
        Step.RESET: HostChannel.RELEASED,
    },
    HostChannel.CLOSING_RELEASED: {
        Step.CLOSED: HostChannel.RELEASED,
        Step.RESCIND: HostChannel.GONE,
        Step.DISCONNECT: HostChannel.CLOSING_RELEASED,
        Step.RESET: HostChannel.CLOSING_RELEASED,
    },
    HostChannel.GONE: {},
}


class HostGpadl(Enum):
    """A GPADL at the host's end."""

    IN_PROGRESS = "its description is not complete"
    OFFERED = "the device has not answered"
    OFFERED_RELEASED = "the same, and the guest has let go"
    ACCEPTED = "in use"
    TEARING_DOWN = "the guest wants it back, the device has not let go"
    TEARING_DOWN_RELEASED = "the same, and the guest does not wait for it"
    GONE = "there is no such GPADL any more"


HOST_GPADL: Table[HostGpadl] = {
    HostGpadl.IN_PROGRESS: {
        Step.COMPLETE: HostGpadl.OFFERED,
        Step.RELEASE: HostGpadl.GONE,
    },
    HostGpadl.OFFERED: {
        Step.CREATED: HostGpadl.ACCEPTED,
        Step.REFUSED: HostGpadl.GONE,
        Step.RESCIND: HostGpadl.GONE,
        Step.RELEASE: HostGpadl.OFFERED_RELEASED,
    },
    HostGpadl.OFFERED_RELEASED: {
        Step.CREATED: HostGpadl.TEARING_DOWN_RELEASED,
        Step.REFUSED: HostGpadl.GONE,
        Step.RESCIND: HostGpadl.GONE,
        Step.RELEASE: HostGpadl.OFFERED_RELEASED,
    },
    HostGpadl.ACCEPTED: {
        Step.TEARDOWN: HostGpadl.TEARING_DOWN,
        Step.RELEASE: HostGpadl.TEARING_DOWN_RELEASED,
    },
    HostGpadl.TEARING_DOWN: {
        Step.TORN_DOWN: HostGpadl.GONE,
        Step.RESCIND: HostGpadl.GONE,
        Step.RELEASE: HostGpadl.TEARING_DOWN_RELEASED,
    },
    HostGpadl.TEARING_DOWN_RELEASED: {
        Step.TORN_DOWN: HostGpadl.GONE,
        Step.RESCIND: HostGpadl.GONE,
        Step.RELEASE: HostGpadl.TEARING_DOWN_RELEASED,
    },
    HostGpadl.GONE: {},
}

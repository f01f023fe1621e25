"""An open channel: two rings, a signal and the transactions between them; the same object at either end.

A runtime (``vmbus.host``, ``vmbus.guest``) makes the channel when it is opened, and calls :meth:`Channel.service`
when the peer has signalled.  The channel takes packets out of the ring as validated copies, hands them to its handler
in batches of at most 64, and puts what the handler sends into the other ring, in order.  Sends made while packets
are handled are committed and signalled once, after the batch; a full ring fills a bounded backlog and asks the
peer for a signal when there is room (``pending_send_size``).

A peer that breaks a rule fails its own channel with a typed error and nothing else.  The tap sits here: it sees the
copies that the handler acts on, a write's data before it is used, and a read's before its completion is sent.

Sources: Linux ``drivers/hv/channel.c``, ``ring_buffer.c``; openvmm ``vmbus_async/src/queue.rs``.
"""

from vmbus.channel.channel import BATCHES_PER_SERVICE, Channel
from vmbus.channel.errors import BacklogFull, ChannelError, NoSuchRanges, UnknownGpadl
from vmbus.channel.handler import ChannelHandler, ChannelJournal
from vmbus.channel.identity import ChannelCounters, ChannelIdentity
from vmbus.channel.sending import MAX_BACKLOG

__all__ = [
    "BATCHES_PER_SERVICE",
    "MAX_BACKLOG",
    "BacklogFull",
    "Channel",
    "ChannelCounters",
    "ChannelError",
    "ChannelHandler",
    "ChannelIdentity",
    "ChannelJournal",
    "NoSuchRanges",
    "UnknownGpadl",
]

"""``python tests/host/killed_host.py POINT COUNT ARGUMENTS...``: a ``vmbus host`` that is killed at a chosen point.

POINT names a moment in the life of a packet or of a message (``POINTS``); the process sends itself SIGKILL there, when
it is reached for the COUNT-th time.  The product knows nothing of this: its methods are wrapped from outside.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vmbus.cli import main
from vmbus.host import servicing
from vmbus.host.partition import HostPartition
from vmbus.host.resumption import ResumablePartition
from vmbus.host.servicing import Servicing
from vmbus.host.taking_over import TakeOver
from vmbus.ring.incoming import IncomingRing
from vmbus.ring.outgoing import OutgoingRing
from vmbus.synic import SynicVp

Wish = Callable[..., bool]


def always(*arguments: Any) -> bool:
    return True


def has_packets(ring: Any) -> bool:
    """A commit of nothing is no point in a packet's life."""
    return bool(ring._count)


class Point:
    """Before or after a call of ``owner.name`` that ``counts``."""

    def __init__(self, owner: type | ModuleType, name: str, *, after: bool, counts: Wish = always) -> None:
        self.owner, self.name, self.after, self.counts = owner, name, after, counts

    def arm(self, count: int) -> None:
        """Kill this process at the point, the ``count``-th time."""
        call = getattr(self.owner, self.name)
        left = count

        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if not self.counts(*arguments):
                return call(*arguments, **named)
            left -= 1
            if left == 0 and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **named)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(self.owner, self.name, wrapped)


OF_A_CHANNEL = servicing._JournalOfChannel

POINTS = {
    "packets are out of the ring": Point(OF_A_CHANNEL, "taken", after=False),
    "packets are in the journal": Point(OF_A_CHANNEL, "taken", after=True),
    "packets are handled": Point(OF_A_CHANNEL, "handled", after=False),
    "state is saved": Point(OF_A_CHANNEL, "handled", after=True),
    "read index is about to be committed": Point(IncomingRing, "commit", after=False, counts=has_packets),
    "read index is committed": Point(IncomingRing, "commit", after=True, counts=has_packets),
    "answers are in the ring": Point(OF_A_CHANNEL, "sent", after=False),
    "answers are in the journal": Point(OF_A_CHANNEL, "sent", after=True),
    "write index is about to be committed": Point(OutgoingRing, "commit", after=False, counts=has_packets),
    "write index is committed": Point(OutgoingRing, "commit", after=True, counts=has_packets),
    "guest is about to be signalled": Point(HostPartition, "_signal", after=False),
    "guest is signalled": Point(HostPartition, "_signal", after=True),
    "document is about to be replaced": Point(Servicing, "checkpoint", after=False),
    "document is replaced": Point(Servicing, "checkpoint", after=True),
    "message is about to be posted": Point(SynicVp, "post_message", after=False),
    "message is posted": Point(SynicVp, "post_message", after=True),
    "message is about to be answered": Point(HostPartition, "post_message", after=True),
}
POINTS_OF_A_TAKE_OVER = {
    "devices are restored": Point(ResumablePartition, "_reopen_channels", after=False),
    "channels are open again": Point(ResumablePartition, "_reopen_channels", after=True),
    "journal is new": Point(Servicing, "_start_journal", after=True),
    "channels are about to go on": Point(TakeOver, "run", after=False),
    "the first channel goes on": Point(TakeOver, "run", after=True),
}
ALL_POINTS = POINTS | POINTS_OF_A_TAKE_OVER

if __name__ == "__main__":
    _, point, count, *arguments = sys.argv
    ALL_POINTS[point].arm(int(count))
    sys.argv = ["vmbus", *arguments]
    sys.exit(main())

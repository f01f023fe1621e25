"""The guest's console lines as notes of its host, so that a capture has them between the packets that they are about.

They go through the host's control socket, if it has one. Lines of the kernel's log are left out: the guest's kernel
sends those itself, through its partition socket.
"""

from __future__ import annotations

import re

from vmbus.closing import Closing
from vmbus.errors import VmbusError
from vmbus.host.ctl_client import CtlClient
from vmbus.transport import parse_address

_KERNEL_LOG = re.compile(r"(<\d+>)?\[ *\d+\.\d{6}\]")
_PATIENCE_SECONDS = 1.0


class ConsoleNotes(Closing):
    """Tells the host at ``host`` every console line, until it does not listen any more."""

    def __init__(self, host: str) -> None:
        self._client: CtlClient | None = None
        try:
            self._client = CtlClient(parse_address(host), seconds=_PATIENCE_SECONDS)
        except VmbusError:
            pass  # a host without a control socket, or none at all: the guest itself will say so

    def tell(self, line: str) -> None:
        """One line; called from the thread that reads the console."""
        if self._client is None or not line.strip() or _KERNEL_LOG.match(line):
            return
        if not self._client.tell("note", kind="console", text=line):
            self.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

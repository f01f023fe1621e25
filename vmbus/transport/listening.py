"""Takes connections at an address, from a loop."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from vmbus.loop import Loop, Timer
from vmbus.transport.address import Address, listen

_PAUSE_SECONDS = 0.1
"""So long nobody is taken when the table of descriptors is full: whoever waits would be seen again at once."""
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Hands every connection, non-blocking, to ``take``, whose it is from then on.  Belongs to the loop's thread."""

    def __init__(
        self, loop: Loop, address: Address, take: Callable[[socket.socket], object], *, backlog: int = 16
    ) -> None:
        """Raises ``AddressError``."""
        self._loop = loop
        self._address = address
        self._take = take
        self._resumption: Timer | None = None
        self._socket = listen(address, backlog=backlog)
        self._watch()

    def _watch(self) -> None:
        self._resumption = None
        self._loop.watch(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError as error:  # it has gone again, or there is no room for it
            if error.errno in _FULL:
                self._loop.unwatch(self._socket.fileno())
                self._resumption = self._loop.call_later(_PAUSE_SECONDS, self._watch)
            return
        connection.setblocking(False)
        self._take(connection)

    def close(self) -> None:
        """Take no more, and remove the socket's file."""
        if self._resumption is not None:
            self._resumption.cancel()
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._address.path.unlink(missing_ok=True)

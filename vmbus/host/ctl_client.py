"""The other end of a host's control socket (``vmbus.host.ctl``): one request, one answer."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from vmbus.closing import Closing
from vmbus.errors import VmbusError
from vmbus.transport.address import Address, AddressError, connect

ANSWER_SECONDS = 60.0


def ctl_address(address: Address) -> Address:
    """The control socket that belongs to the socket at which a host listens."""
    path = f"{address.params}.ctl"
    if len(os.fsencode(path)) > 107:
        raise AddressError(f"{address}: its control socket {path} would have a path of more than 107 bytes")
    return Address("unix", path)


class CtlFailed(VmbusError):
    """The host cannot do what it was asked to; the text is the host's."""


class CtlClient(Closing):
    """A connection to the control socket of the host that listens at ``address``.

    ``seconds`` is how long one request may take. Raises ``AddressError`` when no host is there.
    """

    def __init__(self, address: Address, *, seconds: float = ANSWER_SECONDS) -> None:
        self._socket = connect(ctl_address(address))
        self._socket.settimeout(seconds)
        self._file = self._socket.makefile("rb")

    def request(self, command: str, **arguments: Any) -> Any:
        """Ask, and return the result.  Raises ``CtlFailed``."""
        try:
            self._send(command, arguments)
            answer = self._file.readline()
        except OSError as error:
            raise CtlFailed(f"the host does not answer: {error.strerror or 'time is up'}") from None
        if not answer:
            raise CtlFailed("the host closed the control connection")
        result = json.loads(answer)
        if not result["ok"]:
            raise CtlFailed(result["error"])
        return result["result"]

    def tell(self, command: str, **arguments: Any) -> bool:
        """Say something that is not answered; False when nobody listens any more."""
        try:
            self._send(command, {**arguments, "quiet": True})
        except OSError:
            return False
        return True

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n", socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._file.close()
        self._socket.close()

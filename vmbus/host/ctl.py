"""The host's own control socket, ``LISTEN.ctl``: requests and answers as JSON, one object a line.

    {"command": "inspect", "path": "devices/scsi"}
    {"ok": true, "result": {...}}    or    {"ok": false, "error": "one line"}

It is for the user who started the host (the socket has mode 0600) and never for the guest. The commands are in
``ctl_commands``. With ``"quiet": true`` a request is not answered at all, for those who only tell something.

The host's loop serves it between everything else, so a client can neither block it nor make it grow: a line has at
most 64 KiB, a client waits for one answer at a time, and one that does not read its answer is disconnected.
"""

from __future__ import annotations

import json
import logging
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vmbus.closing import Closing
from vmbus.errors import VmbusError
from vmbus.host.ctl_client import ctl_address
from vmbus.host.ctl_commands import Arguments, CtlCommands, CtlError, Slow
from vmbus.loop import Timer
from vmbus.transport.address import Address
from vmbus.transport.listening import Listener

if TYPE_CHECKING:
    from vmbus.host.server import Host

log = logging.getLogger("vmbus.host")

MAX_LINE = 1 << 16
MAX_CLIENTS = 16
SEND_SECONDS = 10.0
"""So long may a client take to read an answer."""


class CtlSocket(Closing):
    """Listens at ``LISTEN.ctl`` for as long as it is open; belongs to the loop's thread."""

    def __init__(
        self,
        host: Host,
        address: Address,
        *,
        dump: Callable[[str], None] | None = None,
        recording: Callable[[], dict[str, int]] | None = None,
        monitor_latency: int | None = None,
    ) -> None:
        """``address`` is the host's; ``dump`` writes the flight recorder to a file, ``recording`` counts records.

        Devices that are added get ``monitor_latency`` (see ``make_devices``).

        Raises ``AddressError``.
        """
        self.commands = CtlCommands(host, dump=dump, recording=recording, monitor_latency=monitor_latency)
        self.loop = host.loop
        self.address = ctl_address(address)
        self.clients: set[_Client] = set()
        self._listener = Listener(self.loop, self.address, self._take)

    def _take(self, connection: socket.socket) -> None:
        if len(self.clients) >= MAX_CLIENTS:
            connection.close()
            return
        self.clients.add(_Client(self, connection))

    def close(self) -> None:
        """Disconnect every client and remove the socket's file."""
        for client in list(self.clients):
            client.close()
        self._listener.close()


class _Client:
    """One client: its line is read, carried out and answered before the next one is looked at."""

    def __init__(self, server: CtlSocket, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._received = bytearray()
        self._to_send = memoryview(b"")
        self._is_busy = False
        self._patience: Timer | None = None
        self._is_open = True
        server.loop.watch(connection.fileno(), self._ready)

    def _ready(self) -> None:
        if self._to_send:
            self._send()
            return
        try:
            data = self._socket.recv(MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()
            return
        self._received += data
        self._next()

    def _next(self) -> None:
        """Carry out the lines that are complete, for as long as no answer is waited for."""
        while self._is_open and not self._is_busy and not self._to_send:
            end = self._received.find(b"\n")
            if end < 0:
                if len(self._received) > MAX_LINE:
                    self._answer({"ok": False, "error": f"a line of more than {MAX_LINE} bytes"})
                    self.close()
                break
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            self._carry_out(line)
        if self._is_open:
            self._watch_for_what_is_due()

    def _watch_for_what_is_due(self) -> None:
        if self._to_send:
            events = select.EPOLLOUT
        else:
            events = 0 if self._is_busy else select.EPOLLIN
        self._server.loop.rewatch(self._socket.fileno(), events)

    def _carry_out(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            self._answer({"ok": False, "error": "a request is one JSON object on one line"})
            return
        if not isinstance(request, dict):
            self._answer({"ok": False, "error": "a request is a JSON object"})
            return
        quiet = request.get("quiet") is True
        outcome = self._run(lambda: self._server.commands.run(Arguments(request)))
        if not isinstance(outcome, Slow):
            self._finish(outcome, quiet)
            return
        self._is_busy = True
        slow = outcome

        def done(result: Any) -> None:
            failed = isinstance(result, Exception)
            outcome = self._run(lambda: _raise(result) if failed else slow.finish(result))
            if self._is_open:
                self._is_busy = False
                self._finish(outcome, quiet)
                self._next()

        self._server.loop.run_in_worker(slow.work, done)

    def _finish(self, outcome: Any, quiet: bool) -> None:
        if quiet:
            return
        if isinstance(outcome, VmbusError):
            self._answer({"ok": False, "error": str(outcome)})
        else:
            self._answer({"ok": True, "result": outcome})

    @staticmethod
    def _run(work: Callable[[], Any]) -> Any:
        """What ``work`` returns, or the error that the client is told: nothing that a client asks harms the guest."""
        try:
            return work()
        except VmbusError as error:
            return error
        except OSError as error:
            return CtlError(f"{error.filename or 'it failed'}: {error.strerror or error}")
        except Exception as error:
            log.error("internal error in a command", exc_info=error)
            return CtlError(f"internal error: {error!r}")

    def _answer(self, answer: dict[str, Any]) -> None:
        self._to_send = memoryview(json.dumps(answer, default=str).encode() + b"\n")
        self._patience = self._server.loop.call_later(SEND_SECONDS, self.close)
        self._send_some()

    def _send(self) -> None:
        self._send_some()
        if self._is_open and not self._to_send:
            self._next()

    def _send_some(self) -> None:
        try:
            self._to_send = self._to_send[self._socket.send(self._to_send) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._to_send and self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._patience is not None:
            self._patience.cancel()
        self._server.clients.discard(self)
        self._server.loop.unwatch(self._socket.fileno())
        self._socket.close()


def _raise(error: Exception) -> None:
    raise error

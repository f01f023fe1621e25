"""A host that listens on a socket, in a thread of the test's process: what a guest in another process connects to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from vmbus.closing import Closing
from vmbus.devices.device import Device
from vmbus.host import Host
from vmbus.loop import LoopThread
from vmbus.tap import Tap
from vmbus.transport import parse_address

T = TypeVar("T")


class RunningHost(Closing):
    """Serves ``devices`` at ``address`` from construction to ``close``."""

    def __init__(self, socket_path: Path, devices: Iterable[Device], *, tap: Tap | None = None, **options: Any) -> None:
        """``options`` are those of ``Host``."""
        self.address = f"unix:{socket_path}"
        self.notes: list[str] = []
        self.host = Host(devices, tap=tap, **options)
        self.host.listen(parse_address(self.address))
        note = self.host.note

        def keep(text: str, *kind: object) -> None:
            self.notes.append(text)
            note(text, *kind)  # type: ignore[arg-type]

        self.host.note = keep  # type: ignore[method-assign, assignment]
        self._thread = LoopThread(self.host.loop, "vmbus-host")
        self._thread.start()

    def in_host(self, work: Callable[[], T]) -> T:
        """Do something in the host's thread, and wait for it."""
        return self._thread.call(work)

    @property
    def has_guest(self) -> bool:
        return self.host.partition is not None

    def close(self) -> None:
        self._thread.stop()
        self.host.close()

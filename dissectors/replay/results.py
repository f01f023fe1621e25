"""How a replay went, as seen by the side that is played."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Exchanged:
    """Messages and packets that were sent, those that came back, and those that came in the recording."""

    messages_sent: int = 0
    packets_sent: int = 0
    messages_received: int = 0
    packets_received: int = 0
    messages_expected: int = 0
    packets_expected: int = 0

    def _received(self) -> str:
        return (
            f"{self.messages_received} of {self.messages_expected} messages and "
            f"{self.packets_received} of {self.packets_expected} packets"
        )


@dataclass
class Result(Exchanged):
    """Of a guest that was played to a host."""

    waits_in_vain: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the host said at least as much as it had."""
        return (
            self.messages_received >= self.messages_expected
            and self.packets_received >= self.packets_expected
            and not self.waits_in_vain
        )

    def line(self) -> str:
        """The result in one line."""
        return (
            f"sent {self.messages_sent} messages and {self.packets_sent} packets; the host answered with "
            f"{self._received()}"
        )


@dataclass
class HostResult(Exchanged):
    """Of a host that was played to a guest: how much of the recording the guest went through."""

    departures: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the guest did what the recorded one did, and nothing else."""
        return not self.departures

    def line(self) -> str:
        """The result in one line."""
        return (
            f"the guest sent {self._received()}, and got {self.messages_sent} messages and "
            f"{self.packets_sent} packets; {self.departures} departures from the recording"
        )

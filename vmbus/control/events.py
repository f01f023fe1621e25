"""What the events of both ends have in common; ``host_events`` and ``guest_events`` say what happens at each."""

from __future__ import annotations

from dataclasses import dataclass

from vmbus.control.errors import Violation


@dataclass(frozen=True, slots=True)
class MonitorPages:
    """The guest physical addresses of a connection's two monitor pages."""

    parent_to_child: int
    child_to_parent: int


@dataclass(frozen=True, slots=True)
class ReportedViolation:
    """The peer broke a rule; nothing but this message suffers."""

    error: Violation
    message: bytes
    """The message, as it came."""

    @property
    def advice(self) -> str:
        """What was done, and what to look at."""
        return self.error.advice

    def __str__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}. {self.advice}"

"""An initiator without a channel: runs commands on a logical unit and shows what came back. For tests of units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from vmbus.devices.storage.media import MediaUnit
from vmbus.devices.storage.result import Result
from vmbus.devices.storage.task import Task
from vmbus.wire.schema import Format
from vmbus.wire.scsi import Cdb
from vmbus.wire.scsi.sense import AdditionalSense, FixedSense, SenseKey
from vmbus.wire.vstor import DataDirection, ScsiStatus

F = TypeVar("F", bound=Format)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and the bytes it returned."""

    result: Result
    data: bytes

    @property
    def status(self) -> ScsiStatus:
        return ScsiStatus(self.result.scsi_status)

    @property
    def sense(self) -> tuple[SenseKey, AdditionalSense]:
        """Key and additional sense; an assertion error if the command did not fail with sense data."""
        assert self.result.sense, f"no sense data: {self.result}"
        sense = FixedSense.parse(self.result.sense)
        return sense.key, sense.additional

    def parse(self, fmt: type[F]) -> F:
        """The returned bytes as a format; an assertion error if the command failed."""
        assert self.result.scsi_status == 0, self.result
        return fmt.parse(self.data)


class Initiator:
    """Speaks to one unit. ``outcomes`` keeps what finished, in order, also what finished later."""

    def __init__(self, unit: MediaUnit, name: str = "tester") -> None:
        self.unit = unit
        self.name = name
        self.outcomes: list[Outcome] = []
        unit.connect(name)

    def submit(self, command: Cdb | bytes, *, data: bytes = b"", length: int = 0) -> Task:
        """Start a command; ``data`` goes out with it, or up to ``length`` bytes come in."""
        cdb = command if isinstance(command, bytes) else command.build()
        buffer = bytearray(data or length)
        direction = DataDirection.OUT if data else DataDirection.IN if length else DataDirection.NONE
        task = Task(
            cdb.ljust(16, b"\0"),
            views=[memoryview(buffer)] if buffer else [],
            direction=int(direction),
            initiator=self.name,
            finish=lambda result: self.outcomes.append(
                Outcome(result, b"" if data else bytes(buffer[: result.transferred]))
            ),
        )
        self.unit.execute(task)
        return task

    def run(self, command: Cdb | bytes, *, data: bytes = b"", length: int = 0) -> Outcome:
        """Run a command that ends at once."""
        before = len(self.outcomes)
        self.submit(command, data=data, length=length)
        assert len(self.outcomes) == before + 1, "the command has not finished"
        return self.outcomes[-1]

"""A SCSI logical unit: takes one command after the other, keeps unit attentions and reservations, and survives resets.

The commands themselves are functions in the ``*_commands`` modules, found through a table by operation code. A
command returns its result at once, or None when a worker will finish it, or raises :class:`CheckCondition`.

Reset semantics: requests under way are given back to the guest at once. If a worker still has one of them that may
change the medium, the unit answers BUSY until the worker is back, so that a late write can never overwrite what was
written after the reset.

Sources: T10's SPC-4 5.14 (unit attention), SAM-5 (reset); Linux 6.12 ``drivers/scsi/storvsc_drv.c`` for what it waits
for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from vmbus.devices.storage.jobs import Job, Jobs
from vmbus.devices.storage.reservations import Reservations
from vmbus.devices.storage.result import (
    BUSY,
    RESERVATION_CONFLICT,
    TASK_SET_FULL,
    CheckCondition,
    Result,
    backend_failure,
    illegal_request,
    unit_attention,
)  # fmt: skip
from vmbus.devices.storage.task import IN, Task
from vmbus.devices.storage.workers import Runner
from vmbus.wire.scsi.opcodes import DeviceType, Opcode
from vmbus.wire.scsi.sense import AdditionalSense

Command = Callable[[Any, Task], Result | None]
T = TypeVar("T")


class LogicalUnit:
    """Base of disk and DVD. Everything but the workers' work happens in one thread."""

    device_type: ClassVar[DeviceType]
    commands: ClassVar[Mapping[int, Command]]
    attention_passes: ClassVar[frozenset[int]] = frozenset({Opcode.INQUIRY, Opcode.REPORT_LUNS, Opcode.REQUEST_SENSE})
    """Commands that a unit attention lets pass, and a reset too."""

    def __init__(self) -> None:
        self.reservations = Reservations()
        self.initiators: set[Hashable] = set()
        self.is_clear = True
        """No attention, reservation, stop or reset stands in the way of a plain read or write."""
        self.on_change: Callable[[], object] = lambda: None
        """Called when the guest should look at the unit again."""
        self._attentions: dict[Hashable, deque[AdditionalSense]] = {}
        self._saved: dict[str, Any] | None = None
        """What :meth:`save` gives, until something changes: it is asked after each batch of packets."""
        self._jobs = Jobs(self.update)

    # Commands

    def execute(self, task: Task) -> None:
        """Run one command; ``task.finish`` is called with its result, now or later."""
        try:
            result = self._dispatch(task)
        except CheckCondition as failure:
            result = failure.result
        except Exception as failure:  # a backend of somebody's own may raise anything
            result = backend_failure(failure, writing=True).result
        if result is not None:
            task.end(result)

    def _dispatch(self, task: Task) -> Result | None:
        opcode = task.cdb[0]
        if opcode not in self.attention_passes:
            attention = self.take_attention(task.initiator)
            if attention is not None:
                raise unit_attention(attention)
        command = self.commands.get(opcode)
        if command is None:
            raise illegal_request(AdditionalSense.INVALID_OPERATION_CODE)
        if not self.reservations.allows(task.initiator, task.cdb):
            return RESERVATION_CONFLICT
        if self._jobs.lost_changes and opcode not in self.attention_passes:
            return BUSY
        return command(self, task)

    # Work that takes long

    def run(
        self,
        task: Task,
        work: Callable[[], T],
        done: Callable[[T], Result],
        *,
        size: int = 0,
        prepare: Callable[[], object] = lambda: None,
    ) -> Result | None:
        """Do ``work`` in a worker and finish the task with ``done(what it returned)``; ``size`` bytes of data are held.

        ``prepare`` is called before, in the loop. Returns None, or at once what refuses the task. ``work`` may raise
        ``OSError`` or :class:`CheckCondition`, ``done`` the latter.
        """

        def finish(outcome: Any) -> None:
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                result = done(outcome)
            except CheckCondition as failure:
                result = failure.result
            except Exception as failure:  # a backend of somebody's own may raise anything
                result = backend_failure(failure, writing=task.direction != IN).result
            task.end(result)

        return None if self._jobs.submit(Job(task, work, finish, size, prepare)) else TASK_SET_FULL

    @property
    def runner(self) -> Runner:
        """Where work that takes long is done."""
        return self._jobs.runner

    @runner.setter
    def runner(self, runner: Runner) -> None:
        self._jobs.runner = runner

    @property
    def outstanding(self) -> int:
        """Requests that wait for workers, or that workers have."""
        return len(self._jobs)

    @property
    def is_at_rest(self) -> bool:
        """Whether no worker has anything of this unit, or will."""
        return not len(self._jobs) and not self._jobs.lost

    def when_idle(self, action: Callable[[], object]) -> None:
        """Call ``action`` when no worker has anything of this unit, perhaps at once."""
        self._jobs.when_idle(action)

    def abort(self, result: Result, initiator: Hashable = None) -> int:
        """Give back every request under way (of one initiator, or of all); returns how many those were."""
        aborted = [task for task in self._jobs.tasks() if initiator is None or task.initiator == initiator]
        self._jobs.give_up(aborted)
        for task in aborted:
            task.end(result)
        self.update()
        return len(aborted)

    def abandon(self, tasks: Iterable[Task]) -> None:
        """Nobody waits for them any more. Writes that workers have keep the unit busy until they are back."""
        tasks = list(tasks)
        for task in tasks:
            task.abandon()
        self._jobs.give_up(tasks)
        self.update()

    def reset(self, result: Result, attention: AdditionalSense) -> None:
        """A reset of the unit, its bus or its adapter: abort, drop what only lasts until then, and say so."""
        self.reservations.drop_simple()
        self.abort(result)
        self.attend(attention)

    # Unit attentions

    def attend(self, attention: AdditionalSense, *, but: Hashable = None, only: Hashable = None) -> None:
        """Tell every initiator (but one, or only one) with its next command that the unit has changed."""
        for initiator in self.initiators:
            if (initiator == but and but is not None) or (only is not None and initiator != only):
                continue
            queue = self._attentions.setdefault(initiator, deque(maxlen=16))
            if attention not in queue:
                queue.append(attention)
        self.update()

    def take_attention(self, initiator: Hashable) -> AdditionalSense | None:
        """The oldest unit attention for that initiator, which is gone after this."""
        queue = self._attentions.get(initiator)
        if not queue:
            return None
        attention = queue.popleft()
        if not queue:
            del self._attentions[initiator]
        self.update()
        return attention

    def update(self) -> None:
        """Work out ``is_clear`` anew, after anything changed that it depends on, or that is saved."""
        self._saved = None
        self.is_clear = not (self._attentions or self._jobs.lost_changes or self.reservations.is_held) and self.is_ready

    @property
    def is_ready(self) -> bool:
        """Whether there is a medium to read from."""
        return True

    # Life

    def connect(self, initiator: Hashable) -> None:
        """An initiator can reach the unit from now on."""
        self.initiators.add(initiator)

    def lose(self, initiator: Hashable) -> None:
        """The initiator has gone, and may come again: what lasts for as long as it is there ends."""
        self.reservations.release_simple(initiator)
        self.update()

    def disconnect(self, initiator: Hashable) -> None:
        """The initiator is gone: what it had under way is dropped, its answers are nobody's."""
        self.abandon(task for task in self._jobs.tasks() if task.initiator == initiator)
        self.initiators.discard(initiator)
        self._attentions.pop(initiator, None)
        self.lose(initiator)

    def save(self) -> dict[str, Any]:
        """What the next host process must know of this unit; initiators are strings by then."""
        if self._saved is None:
            self._saved = self.state()
        return self._saved

    def state(self) -> dict[str, Any]:
        """What :meth:`save` gives, made anew; :meth:`update` is called when it has changed."""
        return {
            "attentions": {str(who): [int(one) for one in queue] for who, queue in self._attentions.items()},
            "reservations": self.reservations.save(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`save` gave."""
        for who, attentions in state.get("attentions", {}).items():
            told = list(map(AdditionalSense, attentions))
            new = [one for one in self._attentions.get(who, ()) if one not in told]
            self._attentions[who] = deque([*told, *new], maxlen=16)
        self.reservations.restore(state.get("reservations", {}))
        self.update()

    def inspect(self) -> dict[str, Any]:
        """Live state for people."""
        return {
            "type": str(self.device_type),
            "outstanding": self.outstanding,
            "held_by_workers_after_reset": self._jobs.lost,
            "unit_attentions": {str(who): [str(one) for one in queue] for who, queue in self._attentions.items()},
            "reservations": self.reservations.inspect(),
        }

    def close(self) -> None:
        """Release backends and workers."""

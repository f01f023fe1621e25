"""The work of one unit that takes long: what waits, what workers do, and what they still do although nobody waits for
it.

At most as many jobs are with the workers as there are workers, and no more data than :data:`MAX_HELD_BYTES` is held for
them; the others wait in order, without a copy of their data. A job that is given up while it waits is never done. One
that a worker has is *lost*: until the worker is back, what it changes may still happen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vmbus.devices.storage.task import IN, Task
from vmbus.devices.storage.workers import InlineRunner, Runner

MAX_HELD_BYTES = 16 << 20
MAX_JOBS = 1024


@dataclass(slots=True)
class Job:
    """``prepare`` runs in the loop when the job's turn has come, ``work`` in a worker, ``done`` in the loop with what
    ``work`` returned or raised."""

    task: Task
    work: Callable[[], Any]
    done: Callable[[Any], object]
    size: int = 0
    prepare: Callable[[], object] = lambda: None


class Jobs:
    """All jobs of one unit. One thread, but for the workers."""

    def __init__(self, settled: Callable[[], object]) -> None:
        """``settled`` is called when a worker comes back from a lost job."""
        self.runner: Runner = InlineRunner()
        self.lost = 0
        """Jobs that were given up while a worker had them."""
        self.lost_changes = 0
        """Those of them that may still change the medium."""
        self._settled = settled
        self._waiting: deque[Job] = deque()
        self._running: dict[Task, Job] = {}
        self._held = 0
        self._when_idle: list[Callable[[], object]] = []

    def __len__(self) -> int:
        """Jobs that somebody waits for."""
        return len(self._waiting) + len(self._running)

    def submit(self, job: Job) -> bool:
        """Take a job; False if there are too many already."""
        if len(self) >= MAX_JOBS:
            return False
        self._waiting.append(job)
        self._start()
        return True

    def _start(self) -> None:
        while self._waiting and len(self._running) + self.lost < self.runner.limit:
            job = self._waiting[0]
            if self._held and self._held + job.size > MAX_HELD_BYTES:
                return
            self._waiting.popleft()
            self._running[job.task] = job
            self._held += job.size
            job.prepare()
            self.runner.submit(job.work, lambda outcome, job=job: self._came_back(job, outcome))  # type: ignore[misc]

    def _came_back(self, job: Job, outcome: Any) -> None:
        self._held -= job.size
        if self._running.pop(job.task, None) is None:
            self.lost -= 1
            self.lost_changes -= job.task.direction != IN
            self._settled()
        else:
            job.done(outcome)
        self._start()
        self._call_if_idle()

    def give_up(self, tasks: Iterable[Task]) -> None:
        """Nobody waits for these any more."""
        given_up = set(tasks)
        self._waiting = deque(job for job in self._waiting if job.task not in given_up)
        for task in given_up:
            if self._running.pop(task, None) is not None:
                self.lost += 1
                self.lost_changes += task.direction != IN

    def tasks(self) -> list[Task]:
        """The tasks of all jobs that somebody waits for, in order."""
        return [*self._running, *(job.task for job in self._waiting)]

    def when_idle(self, action: Callable[[], object]) -> None:
        """Call ``action`` when there is no job and no lost one, perhaps at once."""
        self._when_idle.append(action)
        self._call_if_idle()

    def _call_if_idle(self) -> None:
        while self._when_idle and not len(self) and not self.lost:
            self._when_idle.pop(0)()

"""A backend that fails on purpose, over another one: to see what a guest does with errors, slowness and silence.

``faulty:BASE,on=read,do=EIO,every=100,from=1M,to=2M``: of the operations ``on`` (read, write, flush, discard; default
all) that touch the range, every ``every``-th one fails. ``do`` is an error's name (EIO, ENOSPC, ...), ``short`` (part
of the data is moved and then EIO), ``slow=SECONDS``, or ``stuck`` (never comes back). ``times=N`` ends it after N.
Rules are repeatable, with ``;`` between them.
"""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass, field
from typing import Any

from vmbus.devices.storage.backend import Backend, BadBackendName, errno_error, open_backend, parse_size
from vmbus.devices.storage.buffers import Views, cut, total_length

OPERATIONS = ("read", "write", "flush", "discard")


@dataclass(slots=True, kw_only=True)
class Fault:
    """One thing to go wrong. ``error`` 0 with a ``delay`` only makes it slow."""

    operations: frozenset[str] = frozenset(OPERATIONS)
    error: int = 0
    delay: float = 0.0
    is_short: bool = False
    is_stuck: bool = False
    first: int = 0
    end: int = 1 << 62
    every: int = 1
    times: int = 1 << 62
    seen: int = field(default=0, init=False)
    done: int = field(default=0, init=False)

    def strikes(self, operation: str, offset: int, length: int) -> bool:
        """Whether it is this operation's turn to fail."""
        if operation not in self.operations or self.done >= self.times:
            return False
        if operation != "flush" and not (offset < self.end and offset + length > self.first):
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.done += 1
        return True


class FaultyBackend(Backend):
    """Another backend with faults; always in worker threads, because it may take long. Owns ``base``."""

    parallel = 8

    def __init__(self, base: Backend, *faults: Fault) -> None:
        self.base = base
        self.faults = list(faults)
        self.size = base.size
        self.files = base.files
        self.block_size = base.block_size
        self.read_only = base.read_only
        self.can_discard = base.can_discard
        self.discarded_reads_zero = base.discarded_reads_zero
        self.released = threading.Event()
        """Set it to let everything that is stuck come back, with an error."""
        self._lock = threading.Lock()

    def _meet(self, operation: str, offset: int, length: int) -> Fault | None:
        """Suffer the first fault that strikes; returns one that moves only part of the data."""
        with self._lock:
            fault = next((one for one in self.faults if one.strikes(operation, offset, length)), None)
        if fault is None:
            return None
        if fault.is_stuck:
            self.released.wait()
            raise errno_error(errno.EIO, f"{operation} was stuck")
        if fault.delay:
            self.released.wait(fault.delay)
        if fault.is_short:
            return fault
        if fault.error:
            raise errno_error(fault.error, f"{operation} fails on purpose")
        return None

    def read_into(self, views: Views, offset: int) -> None:
        if self._meet("read", offset, size := total_length(views)):
            self.base.read_into(cut(views, size // 2), offset)
            raise errno_error(errno.EIO, "the read came short")
        self.base.read_into(views, offset)

    def write_from(self, views: Views, offset: int) -> None:
        if self._meet("write", offset, size := total_length(views)):
            self.base.write_from(cut(views, size // 2 // self.block_size * self.block_size), offset)
            raise errno_error(errno.EIO, "the write came short")
        self.base.write_from(views, offset)

    def flush(self) -> None:
        if self._meet("flush", 0, 0):
            raise errno_error(errno.EIO, "the flush fails on purpose")
        self.base.flush()

    def discard(self, offset: int, length: int) -> None:
        if self._meet("discard", offset, length):
            raise errno_error(errno.EIO, "the discard fails on purpose")
        self.base.discard(offset, length)

    def inspect(self) -> dict[str, Any]:
        struck = [{"seen": fault.seen, "struck": fault.done} for fault in self.faults]
        return {**super().inspect(), "faults": struck, "base": self.base.inspect()}

    def interrupt(self) -> None:
        self.released.set()
        self.base.interrupt()

    def close(self) -> None:
        self.released.set()
        self.base.close()


def parse_fault(text: str) -> Fault:
    """Read one rule. Raises :class:`BadBackendName`."""
    fault = Fault()
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        match key:
            case "on" if set(value.split("+")) <= set(OPERATIONS):
                fault.operations = frozenset(value.split("+"))
            case "do" if value in ("short", "stuck"):
                fault.is_short, fault.is_stuck = value == "short", value == "stuck"
            case "do" if isinstance(code := getattr(errno, value, None), int):
                fault.error = code
            case "slow" if value.replace(".", "", 1).isdigit():
                fault.delay = float(value)
            case "every" | "times" if value.isascii() and value.isdigit() and int(value):
                setattr(fault, key, int(value))
            case "from":
                fault.first = 0 if value == "0" else parse_size(value)
            case "to":
                fault.end = parse_size(value)
            case _:
                raise BadBackendName(f"{part!r} is no part of a fault: on=, do=, slow=, every=, times=, from=, to=")
    return fault


def open_params(params: str, read_only: bool) -> FaultyBackend:
    """``BASE,RULE[;RULE...]``."""
    base, comma, rules = params.partition(",")
    if not comma:
        raise BadBackendName(f"faulty:{params} has no fault: faulty:BASE,on=read,do=EIO,every=100")
    faults = [parse_fault(rule) for rule in rules.split(";")]
    return FaultyBackend(open_backend(base, read_only=read_only), *faults)

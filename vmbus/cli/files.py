"""Files named on a command line: what a command writes is never what it reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vmbus.errors import OptionError

_STANDARD = Path("-")


class OutputIsInput(OptionError):
    """A command was told to write over something that it reads."""


def check_output(target: Path, *inputs: Path) -> None:
    """Refuse to write ``target`` if it is the same file as one of ``inputs``, by whatever name or link.

    Call it before ``target`` is opened: opening it for writing empties it. ``-`` is standard output as the target and
    standard input among the inputs. What is not there is no other file's double; pipes, sockets and terminals are
    places where data passes, so that they may be both.

    Raises ``OptionError``, whose text names both.
    """
    written = _identity(target, 1)
    if written is None:
        return
    for source in inputs:
        if _identity(source, 0) == written:
            same = "" if source == target else f"the same file as {source}, "
            raise OutputIsInput(f"cannot write {target}: it is {same}what this command reads")


def records_written(count: int, path: object) -> str:
    """What a command says when it has written a capture."""
    return f"{count} record{'' if count == 1 else 's'} in {path}"


def _identity(path: Path, standard: int) -> tuple[int, ...] | None:
    """What tells a file or block device from every other; None for what is neither."""
    try:
        found = os.fstat(standard) if path == _STANDARD else os.stat(path)
    except (OSError, ValueError):
        return None
    if stat.S_ISBLK(found.st_mode):
        return (found.st_rdev,)
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


__all__ = ["OutputIsInput", "check_output", "records_written"]

"""The programs that building needs, the Debian packages they are in, and how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable

from vmbus.linux.errors import ToolsMissing

KERNEL_TOOLS = {
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "tar": "tar",
    "xz": "xz-utils",
}
PROGRAM_TOOLS = {"gcc": "gcc", "busybox": "busybox-static"}


def require(tools: dict[str, str], why: str) -> None:
    """Raises ``ToolsMissing`` with one line that names every program in ``tools`` that is not on the path."""
    missing = [name for name in tools if shutil.which(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(tools[name] for name in missing))
        raise ToolsMissing(f"{why} needs {_list(missing)}: install the Debian packages {packages}")


def start_tool(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a program that asks nothing, and says all it says, errors too, in English lines on its ``stdout``."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"LC_ALL": "C"} | environment,
    )


def _list(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last

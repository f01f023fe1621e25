"""Puts the dissector and the extcap where Wireshark and tshark look for them, and takes them away again.

Both go into the user's own folders: ``~/.local/lib/wireshark/plugins`` for the dissector, and
``~/.config/wireshark/extcap`` for the extcap, whose name must not have a dot if scapy is to find it too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dissectors.wireshark.lua import dissector
from vmbus.errors import VmbusError

EXTCAP_NAME = "vmbus"
DISSECTOR_NAME = "vmbus.lua"


class InstallFailed(VmbusError):
    """A file could not be put in its place."""


def plugin_folder() -> Path:
    """Where the user's own plugins of Wireshark lie."""
    return Path.home() / ".local" / "lib" / "wireshark" / "plugins"


def extcap_folder() -> Path:
    """Where the user's own extcaps lie."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "wireshark" / "extcap"


def extcap_script() -> str:
    """A program that runs our extcap with this very Python."""
    return f"#!/bin/sh\nexec '{sys.executable}' -m dissectors.wireshark.extcap \"$@\"\n"


def install() -> list[Path]:
    """Write both files; returns where they are."""
    script, program = plugin_folder() / DISSECTOR_NAME, extcap_folder() / EXTCAP_NAME
    try:
        for path, text in ((script, dissector()), (program, extcap_script())):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        program.chmod(0o755)
    except OSError as error:
        raise InstallFailed(f"cannot write {error.filename}: {error.strerror}") from error
    return [script, program]


def uninstall() -> list[Path]:
    """Remove both files; returns those that were there."""
    found = [path for path in (plugin_folder() / DISSECTOR_NAME, extcap_folder() / EXTCAP_NAME) if path.exists()]
    for path in found:
        path.unlink()
    return found

"""Finds the optional C extensions; ``extension`` is ``vmbus._native``, or None.

None when it was not built (no compiler at installation) or when the environment says ``VMBUS_PURE_PYTHON=1``.
Whoever uses it has a version of the same thing in Python beside it, and picks here. Its C files lie here too;
``module.c`` says what is where.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType


def load(name: str = "vmbus._native") -> ModuleType | None:
    """Import an extension if it is there and wanted."""
    if os.environ.get("VMBUS_PURE_PYTHON", "0") not in ("", "0"):
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


extension = load()

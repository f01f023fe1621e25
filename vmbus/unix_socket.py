"""Listening on a Unix socket: one that a dead process has left behind is replaced, anything else is left alone."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path


def listen_at(path: Path, *, backlog: int = 16) -> socket.socket:
    """A listening stream socket that only its owner may use; it does not block.

    Raises ``OSError``, whose text says what is there instead, if the path cannot be had.
    """
    _make_room(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, str(path)) from None
    return listener


def _make_room(path: Path) -> None:
    problem = ""
    if path.is_dir():
        problem = "it is a directory"
    elif path.exists() and not path.is_socket():
        problem = "it is a file, and not a socket"
    elif path.is_socket() and _is_alive(path):
        problem = "another process is listening there"
    elif path.is_socket():
        path.unlink(missing_ok=True)
    if problem:
        raise OSError(errno.EADDRINUSE, problem, str(path))


def _is_alive(path: Path) -> bool:
    """Whether somebody listens there, be it that many wait for them already."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True

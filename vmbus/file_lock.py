"""A file that belongs to one process at a time: an image, a state, a capture.

The lock (``flock``) is of the open file: it ends with the descriptor, however the process ends, so that one that was
killed leaves none. It keeps out those who ask for it, and nobody else.
"""

from __future__ import annotations

import errno
import fcntl
import time

_EVERY = 0.05
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def lock_file(fd: int, *, shared: bool = False, patience: float = 0.5) -> bool:
    """Lock an open file, and say whether that could be done within ``patience`` seconds.

    ``shared`` locks go together, and with no other. A moment's patience is for those who are about to let go: a
    predecessor that ends, or udev, which holds block devices while it looks at them. Where the file system knows no
    locks every file can be had.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_EVERY)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            return True
        else:
            return True

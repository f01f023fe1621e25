"""Disks in image formats (VHDX, VHD, QCOW2, VMDK, VDI), through a ``qemu-nbd`` that we start and that ends with us.

The server listens on a socket in a directory of its own that nobody else may enter, and ends when our connection does.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vmbus.devices.storage.backend import IMAGE_SUFFIXES, BackendError
from vmbus.devices.storage.nbd import NbdBackend

START_TIMEOUT = 10.0


class QemuBackend(NbdBackend):
    """An image file behind its own ``qemu-nbd``."""

    def __init__(self, path: str, image_format: str, *, read_only: bool = False) -> None:
        """Raises :class:`BackendError` if ``qemu-nbd`` is missing or does not take the file."""
        program = shutil.which("qemu-nbd")
        if program is None:
            raise BackendError(f"{path} needs qemu-nbd: install qemu-utils, or convert the image to a raw file")
        if not Path(path).is_file():
            raise BackendError(f"{path} does not exist")
        self.path = path
        self.files = (Path(path),)
        self._directory = Path(tempfile.mkdtemp(prefix="vmbus-nbd-"))
        socket = self._directory / "socket"
        command = [program, "--format", image_format, "--socket", str(socket), "--discard", "unmap"]
        if read_only:
            command.append("--read-only")
        self._process = subprocess.Popen(
            [*command, path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self._connect(socket, read_only)
        except BaseException:
            self._stop()
            raise

    def _connect(self, socket: Path, read_only: bool) -> None:
        """Connect as soon as it listens; it does so before it has looked at the image."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                super().__init__(str(socket), read_only=read_only)
                return
            except (ConnectionRefusedError, FileNotFoundError):
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                raise BackendError(f"qemu-nbd cannot serve {self.path}: {self._last_words()}") from None
            except OSError:
                raise BackendError(f"qemu-nbd cannot serve {self.path}: {self._last_words()}") from None

    def _last_words(self) -> str:
        """The last line that it wrote before it ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._process.kill()
        _, said = self._process.communicate()
        lines = said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it gives no reason"

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def inspect(self) -> dict[str, Any]:
        return {**super().inspect(), "path": self.path, "qemu_nbd": self._process.pid}

    def close(self) -> None:
        super().close()
        self._stop()


def open_params(params: str, read_only: bool) -> QemuBackend:
    """A path; its suffix says the format."""
    image_format = IMAGE_SUFFIXES.get(Path(params).suffix.lower())
    if image_format is None:
        raise BackendError(f"{params}: its suffix is none of {', '.join(IMAGE_SUFFIXES)}")
    return QemuBackend(params, image_format, read_only=read_only)

"""An image belongs to one disk that writes it, or to any number that read it."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from vmbus.devices.storage.backend import BackendError, open_backend
from vmbus.devices.storage.file import FileBackend


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False)])
def test_an_image_that_is_written_is_nobody_elses(path: str, first: bool, second: bool) -> None:
    holder = FileBackend(path, read_only=first)
    with pytest.raises(BackendError, match=r"disk.img is (in use|written) by another disk"):
        FileBackend(path, read_only=second)
    holder.close()
    FileBackend(path, read_only=second).close()


def test_readers_and_overlays_share_an_image(path: str) -> None:
    backends = [open_backend(name) for name in (f"overlay:{path}", f"overlay:{path}")]
    backends.append(open_backend(path, read_only=True))
    for backend in backends:
        backend.close()


def test_what_an_overlay_keeps_is_its_own(path: str, tmp_path: Path) -> None:
    text = f"overlay:{path},file={tmp_path / 'kept'}"
    first = open_backend(text)
    with pytest.raises(BackendError, match="kept is in use"):
        open_backend(text)
    first.close()
    open_backend(text).close()


def test_an_open_waits_for_whoever_is_about_to_let_go(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(path, "rb") as probing:
        fcntl.flock(probing, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda seconds: fcntl.flock(probing, fcntl.LOCK_UN))
        FileBackend(path).close()

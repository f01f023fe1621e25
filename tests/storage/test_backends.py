"""Every backend keeps what is written to it: one suite over all of them, then what is special about each."""

from __future__ import annotations

import ctypes
import errno
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from vmbus.devices.storage import file
from vmbus.devices.storage.backend import Backend, BackendError, open_backend
from vmbus.devices.storage.file import FileBackend
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.devices.storage.nbd import NbdBackend, parse_server
from vmbus.devices.storage.overlay import OverlayBackend
from vmbus.testing.waiting import until

SIZE = 4 << 20

needs_qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd (qemu-utils) is not installed")
needs_nbdkit = pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed")


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(servers: ExitStack, command: list[str], ready: Callable[[], bool]) -> None:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    servers.callback(process.wait, 60)
    servers.callback(process.kill)
    assert until(lambda: ready() or process.poll() is not None), f"{command[0]} does not start"
    assert process.poll() is None, f"{command[0]} has ended"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def accepts(path: Path) -> bool:
    """Whether somebody listens there: the name of a socket is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def raw_file(tmp_path: Path) -> Path:
    path = tmp_path / "raw.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def make_memory(tmp_path: Path, servers: ExitStack) -> Backend:
    return open_backend("memory:4M")


def make_file(tmp_path: Path, servers: ExitStack) -> Backend:
    return open_backend(str(raw_file(tmp_path)))


def make_block_device(tmp_path: Path, servers: ExitStack) -> Backend:
    attached = subprocess.run(["losetup", "-f", "--show", str(raw_file(tmp_path))], capture_output=True, text=True)
    if attached.returncode:
        pytest.skip(f"no loop device here: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    servers.callback(subprocess.run, ["losetup", "-d", device])
    return open_backend(device)


def make_overlay(tmp_path: Path, servers: ExitStack) -> Backend:
    return open_backend(f"overlay:{raw_file(tmp_path)}")


def make_kept_overlay(tmp_path: Path, servers: ExitStack) -> Backend:
    return open_backend(f"overlay:{raw_file(tmp_path)},file={tmp_path / 'changes'}")


def make_powercut(tmp_path: Path, servers: ExitStack) -> Backend:
    return open_backend(f"powercut:{raw_file(tmp_path)}")


def make_faulty(tmp_path: Path, servers: ExitStack) -> Backend:
    return open_backend("faulty:memory:4M,do=EIO,every=1000000")


def make_qemu_nbd(tmp_path: Path, servers: ExitStack) -> Backend:
    path = tmp_path / "s"
    serve(
        servers,
        ["qemu-nbd", "-t", "-f", "raw", "-k", str(path), "-x", "disk", str(raw_file(tmp_path))],
        lambda: accepts(path),
    )
    return open_backend(f"nbd:unix:{path},export=disk")


def make_qemu_nbd_tcp(tmp_path: Path, servers: ExitStack) -> Backend:
    port = free_port()
    serve(servers, ["qemu-nbd", "-t", "-f", "raw", "-p", str(port), str(raw_file(tmp_path))], lambda: listens(port))
    return open_backend(f"nbd://127.0.0.1:{port}/")


def make_nbdkit(tmp_path: Path, servers: ExitStack) -> Backend:
    path = tmp_path / "s"
    serve(servers, ["nbdkit", "-f", "-U", str(path), "memory", "4M"], lambda: accepts(path))
    return open_backend(f"nbd+unix:///?socket={path}")


def make_qcow2(tmp_path: Path, servers: ExitStack) -> Backend:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "d.qcow2", "4M"], check=True)
    return open_backend(str(tmp_path / "d.qcow2"))


def make_vhdx(tmp_path: Path, servers: ExitStack) -> Backend:
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", tmp_path / "d.vhdx", "4M"], check=True)
    return open_backend(str(tmp_path / "d.vhdx"))


MAKERS = [
    make_memory, make_file, make_block_device, make_overlay, make_kept_overlay, make_powercut, make_faulty,
    *(pytest.param(one, marks=needs_qemu) for one in (make_qemu_nbd, make_qemu_nbd_tcp, make_qcow2, make_vhdx)),
    pytest.param(make_nbdkit, marks=needs_nbdkit),
]  # fmt: skip


@pytest.fixture(params=MAKERS)
def backend(request: pytest.FixtureRequest, tmp_path: Path, servers: ExitStack) -> Iterator[Backend]:
    made = request.param(tmp_path, servers)
    yield made
    made.interrupt()
    made.close()


def pieces(chance: random.Random, buffer: bytearray) -> list[memoryview]:
    """The buffer cut in random places, as a guest's pages are."""
    whole = memoryview(buffer)
    cuts = sorted({0, len(buffer), *(chance.randrange(len(buffer)) for _ in range(chance.randrange(6)))})
    return [whole[start:end] for start, end in pairwise(cuts)]


def test_a_random_load_reads_back_what_was_written_last(backend: Backend) -> None:
    chance = random.Random(7)
    assert backend.size == SIZE
    model = bytearray(SIZE)
    for step in range(300):
        length = 512 * chance.randrange(1, 300)
        offset = 512 * chance.randrange((SIZE - length) // 512 + 1)
        kind = chance.choice(["write", "write", "read", "read", "zero", "discard", "flush"])
        if kind == "write":
            data = bytearray(chance.randbytes(length))
            write = backend.write_durably if step % 10 == 0 else backend.write_from
            write(pieces(chance, data), offset)
            model[offset : offset + length] = data
        elif kind == "read":
            buffer = bytearray(length)
            if not backend.read_at_once(pieces(chance, buffer), offset):
                backend.read_into(pieces(chance, buffer), offset)
            assert buffer == model[offset : offset + length], f"step {step}"
        elif kind == "zero" or (kind == "discard" and backend.can_discard and backend.discarded_reads_zero):
            (backend.write_zeroes if kind == "zero" else backend.discard)(offset, length)
            model[offset : offset + length] = bytes(length)
        elif kind == "flush":
            backend.flush()
    whole = bytearray(SIZE)
    backend.read_into([memoryview(whole)], 0)
    assert whole == model
    assert backend.inspect()["size"] == SIZE


def test_an_overlay_never_changes_its_base_and_a_kept_one_is_taken_up_again(tmp_path: Path) -> None:
    path = raw_file(tmp_path)
    path.write_bytes(b"b" * SIZE)
    for expected in (b"b", b"n"):
        overlay = open_backend(f"overlay:{path},file={tmp_path / 'kept'}")
        buffer = bytearray(512)
        overlay.read_into([memoryview(buffer)], 70000 // 512 * 512)
        assert buffer == expected * 512
        overlay.write_from([memoryview(b"n" * 512)], 70000 // 512 * 512)
        overlay.flush()
        overlay.close()
    assert path.read_bytes() == b"b" * SIZE


def test_an_overlay_of_another_base_is_refused(tmp_path: Path) -> None:
    OverlayBackend(MemoryBackend(1 << 20), str(tmp_path / "o")).close()
    with pytest.raises(BackendError, match="no overlay of a disk"):
        OverlayBackend(MemoryBackend(1 << 30), str(tmp_path / "o"))


def test_a_file_tells_of_its_new_size(tmp_path: Path) -> None:
    backend = FileBackend(str(raw_file(tmp_path)))
    sizes: list[int] = []
    backend.on_resize = lambda: sizes.append(backend.size)
    backend.resize(2 * SIZE)
    assert sizes == [2 * SIZE]
    backend.close()


def test_a_terabyte_in_a_sparse_file_takes_no_space(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    backend = open_backend(f"file:{path},create=1T")
    backend.write_from([memoryview(b"x" * 4096)], (1 << 40) - 4096)
    assert backend.size == 1 << 40
    assert path.stat().st_blocks * 512 < 1 << 20
    backend.close()


@pytest.mark.parametrize(
    ("params", "address", "export"),
    [
        ("unix:/run/a", "/run/a", ""),
        ("unix:/run/a,export=x y", "/run/a", "x y"),
        ("host:10", ("host", 10), ""),
        ("host", ("host", 10809), ""),
        ("[::1]:99,export=e", ("::1", 99), "e"),
        ("//host/disk%201", ("host", 10809), "disk 1"),
        ("+unix:///e?socket=/run/b", "/run/b", "e"),
    ],
)
def test_servers_are_named_as_qemu_and_nbd_uris_name_them(
    params: str, address: str | tuple[str, int], export: str
) -> None:
    assert parse_server(params) == (address, export)


@pytest.mark.parametrize("params", ["", ":", "host:x", "host:0", "+unix:///e", "//host:99999/"])
def test_a_server_that_cannot_be_is_refused(params: str) -> None:
    with pytest.raises(BackendError):
        parse_server(params)


@needs_nbdkit
def test_a_lost_nbd_server_fails_requests_and_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    buffer = bytearray(512)
    with ExitStack() as first:
        serve(first, ["nbdkit", "-f", "-U", str(path), "memory", "4M"], lambda: accepts(path))
        backend = NbdBackend(str(path))
        backend.read_into([memoryview(buffer)], 0)
    with pytest.raises(OSError):
        backend.read_into([memoryview(buffer)], 0)
    path.unlink(missing_ok=True)
    with ExitStack() as second:
        serve(second, ["nbdkit", "-f", "-U", str(path), "memory", "4M"], lambda: accepts(path))
        backend.read_into([memoryview(buffer)], 0)
        assert backend.connects == 2
        backend.close()


@needs_nbdkit
def test_errors_of_an_nbd_server_keep_their_number(tmp_path: Path, servers: ExitStack) -> None:
    path = tmp_path / "s"
    command = ["nbdkit", "-f", "-U", str(path), "--filter=error", "memory", "4M"]
    serve(servers, [*command, "error-pwrite=ENOSPC", "error-pwrite-rate=1"], lambda: accepts(path))
    backend = NbdBackend(str(path))
    with pytest.raises(OSError, match="No space left"):
        backend.write_from([memoryview(bytes(512))], 0)
    backend.close()


def test_something_that_is_no_nbd_server_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def greet() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"220 this is no NBD server\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(BackendError, match="no NBD server"):
            open_backend(f"nbd:unix:{tmp_path / 's'}")
        thread.join()


@needs_qemu
def test_an_image_that_qemu_does_not_take_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.vhdx").write_bytes(b"no image")
    with pytest.raises(BackendError, match="qemu-nbd cannot serve") as caught:
        open_backend(str(tmp_path / "bad.vhdx"))
    assert "\n" not in str(caught.value)


def test_a_file_system_that_makes_no_holes_is_not_filled_with_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"kept" * 1024)
    fallocate = file._libc.fallocate

    def without_holes(fd: int, mode: int, offset: int, length: int) -> int:
        if mode & 2:
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1
        return int(fallocate(fd, mode, offset, length))

    monkeypatch.setattr(file._libc, "fallocate", without_holes)
    backend = FileBackend(str(path))
    assert not backend.can_discard
    with pytest.raises(OSError, match="cannot deallocate"):
        backend.discard(0, 4096)
    backend.close()
    assert path.read_bytes() == b"kept" * 1024


def test_asking_for_holes_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"kept" * 1024)
    FileBackend(str(path)).close()
    assert path.read_bytes() == b"kept" * 1024

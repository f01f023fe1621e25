"""``vmbus host``: serve devices to one guest at a time, until told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from vmbus.capture.recorder import DEFAULT_SNAP_LENGTH, Recorder, RecordingPlan
from vmbus.channel.spinning import SPIN_MICROSECONDS
from vmbus.cli.files import check_output
from vmbus.devices.catalog import make_devices, stand_in
from vmbus.devices.device import Device
from vmbus.devices.hvsocket import VsockRelay
from vmbus.devices.storage.controller import StorageController
from vmbus.host import Host
from vmbus.host.ctl import CtlSocket
from vmbus.host.servicing import Servicing
from vmbus.host.state_lock import StateLock
from vmbus.transport import parse_address
from vmbus.wire.control_values import ALL_VERSIONS

MAX_FLIGHT_MEGABYTES = 16 << 10
"""Of memory, for a flight recorder. More is a file's job (--rotate and --keep)."""


class StopSignals:
    """SIGINT and SIGTERM as events of a loop: the host closes in good order, and a second one ends it at once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ends = (read, write)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._again)
        host.loop.watch(read, self._stop)

    def _again(self, number: int, frame: object) -> None:
        pass  # the wake-up descriptor carries it into the loop

    def _stop(self) -> None:
        os.read(self._ends[0], 64)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self._host.stop()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for end in self._ends:
            os.close(end)


class Recording:
    """A recorder beside a running host: what its writer says is shown, and the flight recorder dumped on demand."""

    def __init__(self, host: Host, recorder: Recorder) -> None:
        self._host = host
        self._recorder = recorder
        self._watch()

    def _watch(self) -> None:
        self._host.loop.watch(self._recorder.control_fd, self._writer_spoke)

    def _writer_spoke(self) -> None:
        for problem in self._recorder.problems():
            print(f"vmbus: {problem}", file=sys.stderr)
            self._host.loop.unwatch(self._recorder.control_fd)

    def dump(self, file: str) -> None:
        """Write the flight recorder to a file; blocks, in a worker. The writer's answer is this call's meanwhile.

        Raises ``OptionError`` for a file that this host has in use, and ``RecordingFailed``.
        """
        devices = [slot.device for slot in self._host.slots]
        check_output(Path(file), *_disk_files(devices), *_outputs(self._recorder.plan.file, self._host.servicing))
        self._host.loop.unwatch(self._recorder.control_fd)
        try:
            self._recorder.dump(file, "asked for by vmbus ctl")
        finally:
            self._host.loop.call_soon_threadsafe(self._watch)


def _allow_descriptors() -> None:
    """As many as this process may have at all: a guest can have a thousand sockets, each of which is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _disk_files(devices: Iterable[Device]) -> Iterator[Path]:
    """The files in which the guest's disks are."""
    for device in devices:
        if isinstance(device, StorageController):
            for unit in tuple(device.units.values()):
                if unit.backend is not None:
                    yield from unit.backend.files


def _outputs(capture: str, servicing: Servicing | None) -> Iterator[Path]:
    """The files that the host writes by itself."""
    if capture:
        yield Path(capture)
    if servicing is not None:
        yield servicing.path


def command(
    listen: Annotated[str, typer.Argument(metavar="unix:PATH", help="Where guests connect.")],
    scsi: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[,OPTION]...",
            help="A disk, for example disk.img,readonly or cd.iso,dvd; repeatable (docs/storage.md).",
        ),
    ] = None,
    nic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND[,OPTION]...",
            help="A network card: embedded, tap:NAME or none; repeatable (docs/network.md).",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PARAMS]", help="Another device: echo, or ./mine.py with one of your own; repeatable."
        ),
    ] = None,
    vsock: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Relay the guest's AF_VSOCK: connect here and say CONNECT PORT, listen at PATH_PORT for the guest.",
        ),
    ] = "",
    monitor_latency: Annotated[
        int | None,
        typer.Option(
            min=1, max=6553, metavar="MICROSECONDS", help="Let both ends signal through monitor pages, so late at most."
        ),
    ] = None,
    capture: Annotated[
        str, typer.Option("--capture", "-w", metavar="FILE", help="Record everything that crosses into this file.")
    ] = "",
    stream: Annotated[
        str, typer.Option(metavar="unix:PATH", help="Let viewers attach there to what crosses, live.")
    ] = "",
    snap: Annotated[
        int, typer.Option(min=0, metavar="BYTES", help="Disk and network data recorded with each packet.")
    ] = DEFAULT_SNAP_LENGTH,
    rotate: Annotated[
        int, typer.Option(min=0, metavar="MEGABYTES", help="Begin a new capture file after so much; 0: never.")
    ] = 0,
    rotate_seconds: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Begin a new capture file after this time; 0: never.")
    ] = 0.0,
    keep: Annotated[int, typer.Option(min=0, metavar="N", help="How many rotated files stay; 0: all.")] = 0,
    flight: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_FLIGHT_MEGABYTES,
            metavar="MEGABYTES",
            help="Keep so much of the latest traffic in memory, for `vmbus ctl unix:PATH dump`.",
        ),
    ] = 0,
    flight_file: Annotated[
        str, typer.Option(metavar="FILE", help="Write that to FILE_00001 and so on whenever a problem is noticed.")
    ] = "",
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Keep the guest's state here; go on from it when restarted."),
    ] = None,
    max_version: Annotated[
        str, typer.Option(metavar="VERSION", help="The newest VMBus version that guests are given, e.g. 4.0.")
    ] = ALL_VERSIONS[-1].number,
    spin: Annotated[
        int, typer.Option(min=0, max=10_000, metavar="MICROSECONDS", help="Watch a busy ring so long; 0: never.")
    ] = SPIN_MICROSECONDS,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what happens.")] = False,
) -> None:
    """Serve synthetic devices to one guest at a time, until Ctrl-C."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="vmbus: %(message)s", stream=sys.stderr
    )
    if (rotate or rotate_seconds or keep) and not capture:
        raise typer.BadParameter("--rotate, --rotate-seconds and --keep are about the files of --capture")
    if keep and not (rotate or rotate_seconds):
        raise typer.BadParameter("--keep is about the files of --rotate or --rotate-seconds")
    if flight_file and not flight:
        raise typer.BadParameter("--flight-file needs --flight, which says how much is kept")
    if not Path(flight_file).parent.is_dir():
        raise typer.BadParameter(f"--flight-file {flight_file}: there is no such folder")
    versions = {version.number: version for version in ALL_VERSIONS}
    if max_version not in versions:
        raise typer.BadParameter(f"--max-version {max_version}: VMBus has {', '.join(versions)}")
    address = parse_address(listen, schemes=("unix",))
    latency = None if monitor_latency is None else 10 * monitor_latency
    _allow_descriptors()
    with contextlib.ExitStack() as stack:
        unused = stack.enter_context(contextlib.ExitStack())
        # First: a host that is about to end lets its state go when it has let everything else go.
        lock = None if state is None else StateLock(state)
        if lock is not None:
            unused.callback(lock.close)
        devices = make_devices(disks=scsi or (), nics=nic or (), others=device or (), monitor_latency=latency)
        for made in devices:
            unused.callback(made.close)
        disks = tuple(_disk_files(devices))
        if state is not None:
            check_output(state, *disks)
        if capture:
            check_output(Path(capture), *disks, *([state] if state is not None else ()))
        servicing = None if state is None else Servicing(state, stand_in, lock)
        recorder = None
        if capture or stream or flight:
            stream_path = parse_address(stream, schemes=("unix",)).params if stream else ""
            plan = RecordingPlan(
                file=capture,
                max_bytes=rotate << 20,
                max_seconds=rotate_seconds,
                keep=keep,
                stream=stream_path,
                snap_length=snap,
                flight_bytes=flight << 20,
                flight_file=flight_file,
            )
            recorder = stack.enter_context(Recorder(plan))
        host = Host(
            devices,
            tap=recorder.tap if recorder is not None else None,
            servicing=servicing,
            max_version=versions[max_version],
            spin_microseconds=spin,
        )
        unused.pop_all()  # they are the host's now
        stack.callback(host.close)
        host.listen(address)
        if vsock:
            host.sockets = relay = VsockRelay(host, parse_address(vsock, schemes=("unix",)).path)
            stack.callback(relay.close)
        stop = StopSignals(host)
        stack.callback(stop.close)
        recording = None if recorder is None else Recording(host, recorder)
        stack.enter_context(
            CtlSocket(
                host,
                address,
                dump=recording.dump if recording is not None and flight else None,
                recording=None if recorder is None else recorder.counters,
                monitor_latency=latency,
            )
        )
        print(f"listening on {address}", flush=True)
        host.serve()

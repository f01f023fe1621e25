"""``vmbus host``: serve devices to one guest at a time, until told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from typing import Annotated

import typer

from vmbus.capture.recorder import DEFAULT_SNAP_LENGTH, Recorder, RecordingPlan
from vmbus.devices.catalog import make_devices
from vmbus.host import Host
from vmbus.transport import parse_address


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


def command(
    listen: Annotated[str, typer.Argument(help="Where guests connect: unix:PATH.")],
    scsi: Annotated[
        list[str] | None,
        typer.Option(help="A disk: FILE[,readonly][,lun=N][,controller=N][,sector=512|4096][,dvd]; repeatable."),
    ] = None,
    nic: Annotated[
        list[str] | None,
        typer.Option(help="A network card: tap:NAME or embedded, with [,mac=..][,mtu=..]; repeatable."),
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Another device: echo; repeatable.")] = None,
    capture: Annotated[
        str, typer.Option("--capture", "-w", help="Record everything that crosses into this file.")
    ] = "",
    stream: Annotated[str, typer.Option(help="Stream the capture live at unix:PATH.")] = "",
    snap: Annotated[
        int, typer.Option(min=0, help="Bytes of disk and network data kept with each packet.")
    ] = DEFAULT_SNAP_LENGTH,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what happens.")] = False,
) -> None:
    """Serve synthetic devices to one guest at a time, until told to stop (Ctrl-C)."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="vmbus: %(message)s", stream=sys.stderr
    )
    address = parse_address(listen, schemes=("unix",))
    with contextlib.ExitStack() as stack:
        devices = make_devices(disks=scsi or (), nics=nic or (), others=device or ())
        recorder = None
        if capture or stream:
            stream_path = parse_address(stream, schemes=("unix",)).params if stream else ""
            plan = RecordingPlan(file=capture, stream=stream_path, snap_length=snap)
            recorder = stack.enter_context(Recorder(plan))
        host = Host(devices, tap=recorder.tap if recorder is not None else None)
        stack.callback(host.close)
        host.listen(address)
        stop = StopSignals(host)
        stack.callback(stop.close)
        if recorder is not None:
            host.loop.watch(recorder.control_fd, lambda: _recorder_spoke(host, recorder))
        print(f"listening on {address}", flush=True)
        host.serve()


def _recorder_spoke(host: Host, recorder: Recorder) -> None:
    for problem in recorder.problems():
        print(f"vmbus: {problem}", file=sys.stderr)
        host.loop.unwatch(recorder.control_fd)

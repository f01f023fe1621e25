"""The process that writes a recording: it takes records from the queue and hands them to files, memory and streams.

Started by ``vmbus.capture.recorder`` as ``python -m vmbus.capture.writer_process`` with three inherited descriptors:
the queue's memory, the doorbell (an eventfd) and a control socket. It speaks JSON, one object a line, on that socket:
commands in (``{"dump": PATH, "why": TEXT}``), answers out (``{"ready": true}``, ``{"dumped": PATH}``, ``{"error":
TEXT}``). When the socket closes the host is done or dead: what is still in the queue is written, the files are
finished, and the process ends. So nothing that was recorded is lost when the host is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from vmbus.capture.assembly import Assembler
from vmbus.capture.outputs import FileOutput, FlightOutput, Output
from vmbus.capture.queue import Consumer, QueueMemory
from vmbus.capture.stream import StreamServer

BUSY_POLL = 0.01
"""Seconds between two looks into the queue while records come. No system call of the host's is needed then."""

IDLE_ROUNDS = 20
"""After so many looks in vain the process sleeps until the doorbell rings ..."""

IDLE_POLL = 0.25
"""... or this many seconds, because a ring of the doorbell can be missed."""


class Writer:
    """The process's state and loop."""

    def __init__(self, memory: QueueMemory, doorbell: int, control: socket.socket, plan: dict[str, Any]) -> None:
        self._consumer = Consumer(memory)
        self._doorbell = doorbell
        self._control = control
        self._commands = b""
        self._assembler = Assembler()
        self._poller = select.epoll()
        self._poller.register(control.fileno(), select.EPOLLIN)
        self._poller.register(doorbell, select.EPOLLIN)
        self._host_is_there = True
        self._outputs: list[Output] = []
        self._flight: FlightOutput | None = None
        self._stream: StreamServer | None = None
        self._open_outputs(plan)

    def _open_outputs(self, plan: dict[str, Any]) -> None:
        if plan.get("file"):
            self._outputs.append(
                FileOutput(
                    self._assembler,
                    Path(plan["file"]),
                    max_bytes=int(plan.get("max_bytes", 0)),
                    max_seconds=float(plan.get("max_seconds", 0)),
                    keep=int(plan.get("keep", 0)),
                )
            )
        if plan.get("flight_bytes"):
            problem_path = Path(plan["flight_file"]) if plan.get("flight_file") else None
            self._flight = FlightOutput(self._assembler, int(plan["flight_bytes"]), problem_path)
            self._outputs.append(self._flight)
        if plan.get("stream"):
            options = {"buffer_size": int(plan["stream_buffer"])} if plan.get("stream_buffer") else {}
            self._stream = StreamServer(self._assembler, Path(plan["stream"]), self._poller, **options)
            self._outputs.append(self._stream)

    def run(self) -> None:
        """Serve until the host is gone, then finish."""
        self._tell({"ready": True})
        idle = 0
        while self._host_is_there:
            if self._take():
                idle = 0
                self._wait(BUSY_POLL)
            elif idle < IDLE_ROUNDS:
                idle += 1
                self._wait(BUSY_POLL)
            else:
                if self._consumer.sleep():
                    self._wait(IDLE_POLL)
                self._consumer.wake()
        while self._take():
            pass
        for output in list(self._outputs):
            self._try(output, lambda output=output: output.finish(self._consumer.lost))

    def _take(self) -> bool:
        chunk = self._consumer.take()
        if not chunk:
            return False
        assembled = self._assembler.assemble(chunk)
        for output in list(self._outputs):
            self._try(output, lambda output=output: output.write(assembled))
        self._consumer.count_written(len(chunk))
        return True

    def _try(self, output: Output, action: Any) -> None:
        """Do it; an output that fails (a full disk) is given up, and the host is told."""
        try:
            action()
        except OSError as error:
            self._outputs.remove(output)
            self._tell({"error": f"the capture stops: {_reason(error)}"})

    def _wait(self, seconds: float) -> None:
        for fd, events in self._poller.poll(seconds):
            if fd == self._control.fileno():
                self._read_commands()
            elif fd == self._doorbell:
                os.eventfd_read(self._doorbell)
            elif self._stream is not None:
                self._stream.on_event(fd, events)

    def _read_commands(self) -> None:
        try:
            received = self._control.recv(65536)
        except OSError:
            received = b""
        if not received:
            self._host_is_there = False
            return
        *lines, self._commands = (self._commands + received).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, command: dict[str, Any]) -> None:
        if "dump" in command:
            if self._flight is None:
                self._tell({"error": "there is no flight recorder to dump"})
                return
            self._take()
            try:
                self._flight.dump(Path(command["dump"]), command.get("why", ""), self._consumer.lost)
                self._tell({"dumped": command["dump"]})
            except OSError as error:
                self._tell({"error": f"cannot write the flight recorder: {_reason(error)}"})

    def _tell(self, answer: dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            pass


def _reason(error: OSError) -> str:
    """What the system refused, and for which file, for people."""
    what = error.strerror or str(error)
    return what if error.filename is None else f"{os.fsdecode(error.filename)}: {what}"


def main(arguments: list[str]) -> int:
    """``writer_process QUEUE_FD DOORBELL_FD CONTROL_FD PLAN``, with the plan as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    memory = QueueMemory.attach(int(arguments[0]))
    control = socket.socket(fileno=int(arguments[2]))
    try:
        writer = Writer(memory, int(arguments[1]), control, json.loads(arguments[3]))
    except OSError as error:
        control.sendall(json.dumps({"error": f"cannot record: {_reason(error)}"}).encode() + b"\n")
        return 1
    writer.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

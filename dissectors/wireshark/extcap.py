"""The extcap: a source of packets for Wireshark's list of interfaces, reading the live stream of a running host.

Wireshark asks it for its interfaces, link types and options, and then has it write pcapng into a fifo.  Source:
Wireshark's ``doc/extcap_example.py`` (the contract: ``--extcap-interfaces``, ``--extcap-dlts``, ``--extcap-config``,
``--capture --fifo``).  What is captured are the stream's bytes as they come.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from vmbus import __version__
from vmbus.capture.walk import open_source
from vmbus.wire.capture import LINK_TYPE

INTERFACE = "vmbus"
_CHUNK = 1 << 16


def answers(options: argparse.Namespace) -> list[str]:
    """What Wireshark wants to know."""
    if options.extcap_interfaces:
        return [
            f"extcap {{version={__version__}}}{{display=VMBus}}",
            f"interface {{value={INTERFACE}}}{{display=VMBus of a running host}}",
        ]
    if options.extcap_dlts:
        return [f"dlt {{number={LINK_TYPE}}}{{name=USER0}}{{display=VMBus records}}"]
    if options.extcap_config:
        return [
            "arg {number=0}{call=--stream}{display=Stream of the host}{type=string}{required=true}"
            "{tooltip=What vmbus host was told with --stream, such as unix:/tmp/stream}"
        ]
    return []


def copy_stream(stream: str, fifo: str) -> None:
    """Everything the stream gives, into the fifo, until one of them ends."""
    source = open_source(stream)
    try:
        with Path(fifo).open("wb", buffering=0) as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)
    except BrokenPipeError:
        pass
    finally:
        source.close()


def main(arguments: list[str] | None = None) -> int:
    """Do what Wireshark asks; 1 with one line on stderr when the stream cannot be opened."""
    parser = argparse.ArgumentParser(prog="vmbus", description=__doc__)
    for name in ("--extcap-interfaces", "--extcap-dlts", "--extcap-config", "--capture"):
        parser.add_argument(name, action="store_true")
    for name in ("--extcap-interface", "--extcap-version", "--fifo", "--stream", "--extcap-capture-filter"):
        parser.add_argument(name)
    options, _ = parser.parse_known_args(arguments)
    if not options.capture:
        print("\n".join(answers(options)))
        return 0
    if not options.fifo or not options.stream:
        print("vmbus: --capture needs --fifo and --stream", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        copy_stream(options.stream, options.fifo)
    except OSError as error:
        print(f"vmbus: cannot read {options.stream}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

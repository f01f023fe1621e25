"""``vmbus uio``: inside a Hyper-V guest, drive a device of its VMBus from user space, and record what crosses."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vmbus.capture.recorder import DEFAULT_SNAP_LENGTH, Recorder, RecordingPlan
from vmbus.channel import ChannelHandler
from vmbus.drivers.disk import Disk
from vmbus.drivers.driver import ChannelOffer, Driver, DriverBus
from vmbus.drivers.echo import EchoDriver, EchoLoad, exchange
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.drivers.storage import Address, StorageDriver
from vmbus.guest.uio import UioBus
from vmbus.inet.host import parse_address
from vmbus.ring import RingPacket
from vmbus.transport import uio
from vmbus.wire.ring import PacketType

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Inside a Hyper-V guest: drive a device from user space.",
)

Device = Annotated[
    str, typer.Argument(metavar="DEVICE", help="Instance or interface id, a name such as net, or uioN; see list.")
]
Bind = Annotated[bool, typer.Option("--bind", help="Take it from the kernel's driver, and give it back at the end.")]
Write = Annotated[str, typer.Option("--write", "-w", metavar="FILE", help="Record the channel into this capture.")]
Snap = Annotated[int, typer.Option(min=0, metavar="BYTES", help="Data outside the ring recorded with each packet.")]


@app.callback()
def _root(
    context: typer.Context,
    sysfs: Annotated[Path, typer.Option(metavar="DIR", help="Where sysfs is mounted.")] = uio.SYSFS,
) -> None:
    context.obj = sysfs


@app.command("list")
def list_(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """Show the devices of this machine's VMBus, and who drives them."""
    devices = uio.list_devices(context.obj)
    if as_json:
        for device in devices:
            print(json.dumps(_as_dict(device)))
        return
    rows = [("INSTANCE", "INTERFACE", "CHANNEL", "DRIVER", "UIO", "SIGNALLED BY")]
    for device in devices:
        driver, file = device.driver or "-", device.uio or "-"
        rows.append((str(device.instance_id), device.name, str(device.channel_id), driver, file, _signal(device)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _signal(device: uio.SysfsDevice) -> str:
    if not device.monitor_allocated:
        return "hypercall"
    latency = device.monitor_latency
    return f"monitor {device.monitor_id}" + ("" if latency is None else f", within {latency:g} us")


def _as_dict(device: uio.SysfsDevice) -> dict[str, Any]:
    wanted = ("interface_id", "instance_id", "channel_id", "driver", "uio")
    told = {name: value for name, value in dataclasses.asdict(device).items() if name in wanted}
    told |= {"name": device.name, "monitor_id": device.monitor_id if device.monitor_allocated else None}
    told["monitor_latency_us"] = device.monitor_latency
    return {name: value if isinstance(value, int | float | None) else str(value) for name, value in told.items()}


@app.command()
def bind(context: typer.Context, device: Device) -> None:
    """Hand a device to user space; its disks or interfaces vanish."""
    bound = uio.bind(uio.find_device(device, context.obj))
    print(f"{bound} is /dev/{bound.uio}")


@app.command()
def release(context: typer.Context, device: Device) -> None:
    """Give a device back to the kernel's own driver."""
    released = uio.release(uio.find_device(device, context.obj))
    print(f"{released} is with {released.driver or 'no driver'}")


@app.command()
def listen(
    context: typer.Context,
    device: Device,
    seconds: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Stop after this time.")] = 10.0,
    count: Annotated[
        int, typer.Option("--count", "-c", min=0, metavar="N", help="Stop after so many packets; 0: never.")
    ] = 0,
    bind: Bind = False,
    write: Write = "",
) -> None:
    """Open a channel, answer nothing, show what the host sends."""
    listener = Listener()
    with _driven(context.obj, device, listener, bind, write) as bus:
        bus.loop.run(lambda: bus.gone is not None or listener.packets >= count > 0, timeout=seconds)
        if bus.gone is not None:
            raise bus.gone
    print(f"{listener.packets} packets")


class Listener(Driver, ChannelHandler):
    """Shows what comes, a line for each packet."""

    def __init__(self) -> None:
        self.packets = 0

    def attach(self, bus: DriverBus, offer: ChannelOffer) -> None:
        bus.open(offer).result().handler = self

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            self.packets += 1
            kind = PacketType(packet.packet_type)
            wants = ", wants a completion" if packet.wants_completion else ""
            head = packet.payload[:32].hex(" ")
            print(f"{kind} {packet.transaction_id:#x}, {len(packet.payload)} bytes{wants}: {head}")

    def detach(self) -> None:
        pass


@app.command()
def echo(
    context: typer.Context,
    device: Device = "6f1c7d1e-94a3-4c1c-9f0e-2b8c0c5d1a10",
    packets: Annotated[int, typer.Option(min=1, metavar="N", help="How many.")] = 10_000,
    largest: Annotated[
        int, typer.Option(min=0, max=60_000, metavar="BYTES", help="The largest packet; sizes are random.")
    ] = 8000,
    window: Annotated[int, typer.Option(min=1, max=4096, metavar="N", help="How many are under way at once.")] = 64,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random sizes and contents.")] = 1,
    bind: Bind = False,
    write: Write = "",
) -> None:
    """Exchange packets with the echo device, and compare each byte."""
    driver = EchoDriver()
    with _driven(context.obj, device, driver, bind, write) as bus:
        channel = bus.wait(driver.ready)
        start = time.monotonic()
        load = EchoLoad(packets=packets, largest=largest, window=window, seed=seed)
        size = exchange(bus, driver, load)
        elapsed = time.monotonic() - start
        counters = channel.counters
    print(
        f"{packets} packets, {size} bytes compared, {packets / elapsed:.0f} packets/s,"
        f" {counters.signals_out} signals to the host, {counters.signals_in} interrupts"
    )


@app.command()
def card(
    context: typer.Context,
    device: Device = "net",
    address: Annotated[str, typer.Option(metavar="IPV4", help="The card's own address.")] = "10.7.0.2",
    ping: Annotated[str, typer.Option(metavar="IPV4", help="Send echo requests there.")] = "",
    count: Annotated[int, typer.Option("--count", "-c", min=1, metavar="N", help="How many of those.")] = 4,
    size: Annotated[int, typer.Option(min=0, max=1472, metavar="BYTES", help="In each of those.")] = 56,
    tcp_echo: Annotated[
        int, typer.Option(min=0, metavar="BYTES", help="Send so much to port 7 there, and compare what comes back.")
    ] = 0,
    queues: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Channels of the card to use.")] = 1,
    bind: Bind = False,
    write: Write = "",
    snap: Snap = DEFAULT_SNAP_LENGTH,
) -> None:
    """Bring a network card up, say what it is, and try it."""
    for own_or_other in filter(None, (address, ping)):
        parse_address(own_or_other)  # a wrong one is refused before the card is taken
    driver = NetworkDriver(queues=queues)
    with _driven(context.obj, device, driver, bind, write, snap) as bus:
        bus.wait(driver.ready)
        about = driver.inspect()
        link, version = "up" if about["link_up"] else "down", about["nvsp_version"]
        print(f"{about['mac']}, NVSP {version}, MTU {about['mtu']}, {about['queues']} channels, link {link}")
        network_card = NetworkCard(bus, driver, address)
        for number in range(count if ping else 0):
            print(f"{size} bytes from {ping}: seq={number} time={1e3 * network_card.ping(ping, size):.2f} ms")
        if ping and tcp_echo:
            _compare_stream(network_card, ping, tcp_echo)
        driver.shut_down()


@app.command()
def disk(
    context: typer.Context,
    device: Device = "scsi",
    unit: Annotated[str, typer.Option(metavar="PATH:TARGET:LUN", help="Which unit of the controller.")] = "0:0:0",
    blocks: Annotated[int, typer.Option(min=0, metavar="N", help="Read so many from the start, and time it.")] = 2048,
    bind: Bind = False,
    write: Write = "",
    snap: Snap = DEFAULT_SNAP_LENGTH,
) -> None:
    """Say what a disk is, and read from it; writes nothing."""
    try:
        path, target, lun = map(int, unit.split(":"))
    except ValueError:
        raise typer.BadParameter(f"--unit {unit}: wanted is PATH:TARGET:LUN, such as 0:0:1") from None
    driver = StorageDriver()
    with _driven(context.obj, device, driver, bind, write, snap) as bus:
        one = Disk(bus.wait(driver.ready), bus.pages, bus.wait, Address(path, target, lun)).open()
        about = one.inquiry()
        names = " ".join(text.decode("ascii", "replace").strip() for text in (about.vendor, about.product))
        print(f"{names}, {one.blocks} blocks of {one.block_size} bytes")
        start = time.monotonic()
        read = one.read(0, min(blocks, one.blocks))
        print(f"{len(read)} bytes read in {time.monotonic() - start:.3f} s, SHA-256 {hashlib.sha256(read).hexdigest()}")


def _compare_stream(network_card: NetworkCard, address: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    start = time.monotonic()
    if network_card.connect(address, 7).exchange(data) != data:
        raise DriverError(f"{size} bytes sent by TCP came back changed")
    print(f"{size} bytes each way by TCP in {time.monotonic() - start:.2f} s, compared")


@contextlib.contextmanager
def _driven(root: Path, name: str, driver: Driver, take: bool, write: str, snap: int = 0) -> Iterator[UioBus]:
    """The device with that driver; recorded, and given back to the kernel at the end, where that was asked for."""
    with contextlib.ExitStack() as stack:
        found = uio.find_device(name, root)
        if take and found.driver != uio.UIO_DRIVER:
            found = uio.bind(found)
            stack.callback(_give_back, found)
        tap = None
        if write:
            tap = stack.enter_context(Recorder(RecordingPlan(file=write, snap_length=snap))).tap
        bus = stack.enter_context(UioBus.of(found, tap=tap))
        bus.attach(driver)
        yield bus


def _give_back(device: uio.SysfsDevice) -> None:
    with contextlib.suppress(uio.UioError):  # it may be gone
        uio.release(device)

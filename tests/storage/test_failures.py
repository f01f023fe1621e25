"""What goes wrong below a disk reaches the guest as the right sense data, and stays on that disk."""

from __future__ import annotations

import errno
import random
import resource
from collections.abc import Iterator

import pytest

from vmbus.devices.storage.backend import BackendError
from vmbus.devices.storage.controller import UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.faulty import Fault, FaultyBackend, parse_fault
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.jobs import MAX_JOBS
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.devices.storage.powercut import PowerCutBackend
from vmbus.drivers.disk import Disk
from vmbus.drivers.storage import Address, GuestBuffer, ScsiError
from vmbus.testing.scsi import Initiator
from vmbus.testing.storage import StorageBench
from vmbus.wire.scsi.block import Transfer10
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.scsi.sense import AdditionalSense, SenseKey
from vmbus.wire.vstor import DataDirection, ScsiStatus, SrbStatus, VstorOperation, VstorStatus

READ = Transfer10(opcode=Opcode.READ_10, lba=0, length=1)


@pytest.fixture
def bench() -> Iterator[StorageBench]:
    with StorageBench() as bench:
        bench.wait(bench.link.negotiate())
        yield bench


def add_faulty(bench: StorageBench, *faults: Fault, lun: int = 0) -> FaultyBackend:
    backend = FaultyBackend(MemoryBackend(1 << 20), *faults)
    bench.controller.add(UnitAddress(0, 0, lun), ScsiDisk(backend, Identity.of(f"faulty {lun}")))
    return backend


def read_later(bench: StorageBench, lun: int = 0) -> tuple[object, GuestBuffer]:
    buffer = GuestBuffer(bench.pair.pages, 512)
    return bench.link.execute(Address(0, 0, lun), READ, buffer, DataDirection.IN), buffer


@pytest.mark.parametrize(
    ("error", "operation", "key", "additional"),
    [
        (errno.EIO, "read", SenseKey.MEDIUM_ERROR, AdditionalSense.UNRECOVERED_READ_ERROR),
        (errno.EIO, "write", SenseKey.MEDIUM_ERROR, AdditionalSense.WRITE_ERROR),
        (errno.ENOSPC, "write", SenseKey.DATA_PROTECT, AdditionalSense.SPACE_ALLOCATION_FAILED),
        (errno.EROFS, "write", SenseKey.DATA_PROTECT, AdditionalSense.WRITE_PROTECTED),
        (errno.ECONNRESET, "read", SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE),
        (errno.EIO, "flush", SenseKey.MEDIUM_ERROR, AdditionalSense.WRITE_ERROR),
        (errno.EIO, "discard", SenseKey.MEDIUM_ERROR, AdditionalSense.WRITE_ERROR),
    ],
)
def test_an_error_of_the_backend_becomes_sense_data(
    bench: StorageBench, error: int, operation: str, key: SenseKey, additional: AdditionalSense
) -> None:
    backend = add_faulty(bench)
    disk = bench.disk().open()
    backend.faults.append(Fault(operations=frozenset({operation}), error=error, times=1))
    act = {
        "read": lambda: disk.read(8, 1),
        "write": lambda: disk.write(8, bytes(512)),
        "flush": disk.flush,
        "discard": lambda: disk.discard(0, 8),
    }[operation]
    with pytest.raises(ScsiError) as caught:
        act()
    sense = caught.value.completion.sense_data
    assert sense is not None
    assert (sense.key, sense.additional) == (key, additional)
    assert not sense.information_valid or sense.information in (0, 8)
    act()


def test_a_backend_that_raises_something_else_is_a_hardware_error_and_not_the_hosts_end(bench: StorageBench) -> None:
    backend = MemoryBackend(1 << 20)
    bench.controller.add(UnitAddress(0, 0, 0), ScsiDisk(backend, Identity.of("buggy")))
    disk = bench.disk().open()

    def fail(*unused: object) -> None:
        raise KeyError("a mistake in a backend")

    backend.read_into = backend.discard = fail  # type: ignore[method-assign, assignment]
    for act in (lambda: disk.read(0, 1), lambda: disk.discard(0, 8)):
        with pytest.raises(ScsiError, match="HARDWARE_ERROR"):
            act()
    promise, _ = read_later(bench)
    sense = bench.wait(promise).sense_data  # type: ignore[arg-type]
    assert sense.key == SenseKey.HARDWARE_ERROR


def test_a_short_read_is_an_error_and_never_half_a_success(bench: StorageBench) -> None:
    add_faulty(bench, Fault(operations=frozenset({"read"}), is_short=True))
    with pytest.raises(ScsiError) as caught:
        bench.disk().open().read(0, 4)
    assert caught.value.completion.transferred == 0


def test_a_stuck_request_stops_no_other_disk(bench: StorageBench) -> None:
    stuck = add_faulty(bench, Fault(operations=frozenset({"read"}), is_stuck=True))
    add_faulty(bench, lun=1)
    waiting = [read_later(bench)[0] for _ in range(100)]
    disk = bench.disk(1).open()
    for lba in range(50):
        disk.write(lba, b"o" * 512)
        assert disk.read(lba, 1) == b"o" * 512
    assert not any(one.done for one in waiting)  # type: ignore[attr-defined]
    stuck.released.set()
    for one in waiting:
        assert bench.wait(one).sense_data.key == SenseKey.MEDIUM_ERROR  # type: ignore[arg-type]


def test_more_requests_than_a_disk_may_hold_are_refused_as_task_set_full(bench: StorageBench) -> None:
    stuck = add_faulty(bench, Fault(operations=frozenset({"read"}), is_stuck=True))
    buffer = GuestBuffer(bench.pair.pages, 512)
    promises = [bench.link.execute(Address(), READ, buffer, DataDirection.IN) for _ in range(MAX_JOBS + 10)]
    bench.pair.loop.run(until=lambda: any(one.done for one in promises), timeout=60)
    refused = next(one for one in promises if one.done).result()
    assert (refused.scsi_status, refused.srb_status) == (ScsiStatus.TASK_SET_FULL, SrbStatus.BUSY)
    stuck.released.set()
    for one in promises:
        bench.wait(one)


@pytest.mark.parametrize(
    "operation", [VstorOperation.RESET_LUN, VstorOperation.RESET_BUS, VstorOperation.RESET_ADAPTER]
)
def test_a_reset_gives_stuck_requests_back_before_it_is_answered(
    bench: StorageBench, operation: VstorOperation
) -> None:
    stuck = add_faulty(bench, Fault(operations=frozenset({"read"}), is_stuck=True, times=3))
    waiting = [read_later(bench)[0] for _ in range(3)]
    reset = bench.link.reset(operation)
    order: list[str] = []
    for one in waiting:
        one.then(lambda _: order.append("request"))  # type: ignore[attr-defined]
    reset.then(lambda _: order.append("reset"))
    assert bench.wait(reset)[0] == VstorStatus.SUCCESS
    assert order == ["request"] * 3 + ["reset"]
    assert {one.result().srb_status for one in waiting} == {SrbStatus.BUS_RESET}  # type: ignore[attr-defined]
    stuck.released.set()


def test_after_a_reset_a_late_write_cannot_overtake_new_ones(bench: StorageBench) -> None:
    backend = add_faulty(bench, Fault(operations=frozenset({"write"}), is_stuck=True, times=1))
    disk = bench.disk().open()
    buffer = GuestBuffer(bench.pair.pages, 512)
    write = Transfer10(opcode=Opcode.WRITE_10, lba=0, length=1)
    late = bench.link.execute(Address(), write, buffer, DataDirection.OUT)
    bench.wait(bench.link.reset(VstorOperation.RESET_LUN))
    assert late.result().srb_status == SrbStatus.BUS_RESET
    with pytest.raises(ScsiError):
        disk.read(0, 1)  # the unit attention
    with pytest.raises(ScsiError) as caught:
        disk.read(0, 1)
    assert caught.value.completion.scsi_status == ScsiStatus.BUSY
    backend.released.set()
    unit = bench.controller.units[UnitAddress(0, 0, 0)]
    assert bench.pair.loop.run(until=lambda: unit.is_clear, timeout=60)
    assert disk.read(0, 1) == bytes(512)


def test_a_stuck_read_does_not_keep_the_disk_busy_after_a_reset(bench: StorageBench) -> None:
    add_faulty(bench, Fault(operations=frozenset({"read"}), is_stuck=True, times=1))
    read_later(bench)
    bench.wait(bench.link.reset(VstorOperation.RESET_BUS))
    assert bench.disk().open().read(0, 1) == bytes(512)


def test_requests_that_only_wait_are_never_done_after_a_reset(bench: StorageBench) -> None:
    backend = add_faulty(bench, Fault(operations=frozenset({"write"}), is_stuck=True, times=8))
    buffer = GuestBuffer(bench.pair.pages, 512)
    buffer.write(b"!" * 512)
    for lba in range(100):
        write = Transfer10(opcode=Opcode.WRITE_10, lba=lba, length=1)
        bench.link.execute(Address(), write, buffer, DataDirection.OUT)
    bench.wait(bench.link.reset(VstorOperation.RESET_LUN))
    backend.released.set()
    unit = bench.controller.units[UnitAddress(0, 0, 0)]
    assert bench.pair.loop.run(until=lambda: not unit.inspect()["held_by_workers_after_reset"], timeout=60)
    disk = bench.disk().open()
    assert read_all(disk) == bytes(1 << 20)


def test_what_waits_for_a_slow_disk_is_bounded_in_bytes_and_all_comes_back(bench: StorageBench) -> None:
    backend = FaultyBackend(MemoryBackend(4 << 20), Fault(delay=0.001))
    bench.controller.add(UnitAddress(0, 0, 0), ScsiDisk(backend, Identity.of("slow")))
    buffer = GuestBuffer(bench.pair.pages, 1 << 20)
    write = Transfer10(opcode=Opcode.WRITE_10, lba=0, length=2048)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    promises = [bench.link.execute(Address(), write, buffer, DataDirection.OUT) for _ in range(200)]
    for one in promises:
        assert bench.wait(one).is_good
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_unit_removed_with_requests_under_way_fails_them(bench: StorageBench) -> None:
    add_faulty(bench, Fault(operations=frozenset({"read"}), is_stuck=True))
    waiting, _ = read_later(bench)
    bench.pair.loop.run(until=lambda: bool(bench.controller.units[UnitAddress(0, 0, 0)].outstanding), timeout=60)
    bench.controller.remove(UnitAddress(0, 0, 0)).close()
    assert bench.wait(waiting).srb_status == SrbStatus.INVALID_LUN  # type: ignore[arg-type]


def test_a_channel_closed_over_a_stuck_request_lets_the_guests_memory_go(bench: StorageBench) -> None:
    add_faulty(bench, Fault(is_stuck=True))
    unit = bench.controller.units[UnitAddress(0, 0, 0)]
    read_later(bench)
    write = Transfer10(opcode=Opcode.WRITE_10, lba=0, length=1)
    bench.link.execute(Address(), write, GuestBuffer(bench.pair.pages, 512), DataDirection.OUT)
    assert bench.pair.loop.run(until=lambda: unit.outstanding == 2, timeout=60)
    bench.pair.host.close()  # leaving the fixture closes the memory, which fails while anybody holds it
    assert unit.outstanding == 0
    assert not unit.is_clear  # the write may still happen


def test_every_flush_that_a_guest_was_told_of_survives_a_power_cut(bench: StorageBench) -> None:
    chance = random.Random(11)
    base = MemoryBackend(1 << 20)
    backend = PowerCutBackend(base)
    bench.controller.add(UnitAddress(0, 0, 0), ScsiDisk(backend, Identity.of("cut")))
    disk = bench.disk().open()
    durable, written = bytearray(1 << 20), bytearray(1 << 20)
    for _ in range(40):
        for _ in range(chance.randrange(1, 12)):
            lba, data = chance.randrange(2000), chance.randbytes(512 * chance.randrange(1, 40))
            disk.write(lba, data)
            written[lba * 512 : lba * 512 + len(data)] = data
        if chance.random() < 0.5:
            disk.flush()
            durable[:] = written
        if chance.random() < 0.3:
            backend.cut_power()
            with pytest.raises(ScsiError):
                disk.read(0, 1)
            backend.restore_power()
            assert read_all(disk) == durable
            written[:] = durable


def test_a_write_with_fua_survives_a_power_cut_without_a_flush(bench: StorageBench) -> None:
    backend = PowerCutBackend(MemoryBackend(1 << 20))
    bench.controller.add(UnitAddress(0, 0, 0), ScsiDisk(backend, Identity.of("fua")))
    disk = bench.disk().open()
    disk.write(1, b"kept" * 128, fua=True)
    disk.write(2, b"lost" * 128)
    assert backend.cut_power() == 1
    backend.restore_power()
    assert disk.read(1, 2) == b"kept" * 128 + bytes(512)


def test_with_the_write_cache_off_every_write_survives_a_power_cut() -> None:
    backend = PowerCutBackend(MemoryBackend(1 << 20))
    unit = ScsiDisk(backend, Identity.of("through"))
    unit.write_cache = False
    unit.update()
    Initiator(unit).run(Transfer10(opcode=Opcode.WRITE_10, lba=0, length=1), data=b"k" * 512)
    assert backend.cut_power() == 0


def read_all(disk: Disk) -> bytes:
    return disk.read(0, disk.blocks)


def test_faults_are_read_from_text() -> None:
    fault = parse_fault("on=read+write,do=ENOSPC,every=3,times=2,from=1M,to=2M")
    hits = [fault.strikes("write", 1 << 20, 512) for _ in range(9)]
    assert hits == [False, False, True, False, False, True, False, False, False]
    assert not fault.strikes("write", 2 << 20, 512)
    assert fault.error == errno.ENOSPC


@pytest.mark.parametrize("text", ["do=EFOO", "on=sing", "every=0", "slow=x", "from=1Q", "what"])
def test_a_fault_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BackendError):
        parse_fault(text)

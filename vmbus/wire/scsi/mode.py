"""SCSI MODE SENSE and MODE SELECT: headers, block descriptors and mode pages.

Sources: openvmm ``scsi_defs/src/lib.rs`` (``ModeSense*``, ``ModeParameterHeader*``, ``ModeCachingPage``,
``PowerConditionPage``, ``ModeSenseModePageTimeoutProtect``); Linux 6.12 ``drivers/scsi/sd.c``
(``sd_read_cache_type``, ``sd_read_write_protect_flag``), ``sr.c`` (``get_capabilities``) and
``include/uapi/linux/cdrom.h``; T10's SPC-4, SBC-3, MMC-6.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, be16, be24, be32, bits, blob, items, pad, u8, variant
from vmbus.wire.scsi.opcodes import Cdb


class ModePageCode(OpenEnum):
    """Mode page codes."""

    VENDOR_SPECIFIC = 0x00
    ERROR_RECOVERY = 0x01
    DISCONNECT = 0x02
    FORMAT_DEVICE = 0x03
    RIGID_GEOMETRY = 0x04
    WRITE_PARAMETERS = 0x05
    VERIFY_ERROR = 0x07
    CACHING = 0x08
    CONTROL = 0x0A
    AUDIO_CONTROL = 0x0E
    PROTOCOL_SPECIFIC_PORT = 0x19
    POWER_CONDITION = 0x1A
    INFORMATIONAL_EXCEPTIONS = 0x1C
    TIMEOUT_PROTECT = 0x1D
    CAPABILITIES = 0x2A
    ALL = 0x3F


class PageControl(OpenEnum):
    """Which values of a page are wanted."""

    CURRENT = 0
    CHANGEABLE = 1
    DEFAULT = 2
    SAVED = 3


class ModeSense6(Cdb):
    """MODE SENSE (6)."""

    reserved: int = bits(4, of=8, msb=True, default=0)
    no_block_descriptors: int = bits(1, default=0)
    reserved2: int = bits(3, default=0)
    page_control: PageControl = bits(2, PageControl, of=8, msb=True, default=0)
    page: ModePageCode = bits(6, ModePageCode)
    subpage: int = u8(default=0)
    allocation_length: int = u8(unit="bytes")
    control: int = u8(default=0)


class ModeSense10(Cdb):
    """MODE SENSE (10)."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    long_lba: int = bits(1, default=0)
    no_block_descriptors: int = bits(1, default=0)
    reserved2: int = bits(3, default=0)
    page_control: PageControl = bits(2, PageControl, of=8, msb=True, default=0)
    page: ModePageCode = bits(6, ModePageCode)
    subpage: int = u8(default=0)
    reserved3: bytes = pad(3, default=b"")
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class ModeSelect6(Cdb):
    """MODE SELECT (6)."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    page_format: int = bits(1, default=1)
    reserved2: int = bits(3, default=0)
    save_pages: int = bits(1, default=0)
    reserved3: bytes = pad(2, default=b"")
    list_length: int = u8(unit="bytes")
    control: int = u8(default=0)


class ModeSelect10(Cdb):
    """MODE SELECT (10)."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    page_format: int = bits(1, default=1)
    reserved2: int = bits(3, default=0)
    save_pages: int = bits(1, default=0)
    reserved3: bytes = pad(5, default=b"")
    list_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class ErrorRecoveryPage(Format):
    """Page 01h of a disk or a DVD."""

    awre: int = bits(1, of=8, msb=True, default=0)
    arre: int = bits(1, default=0)
    transfer_block: int = bits(1, default=0)
    read_continuous: int = bits(1, default=0)
    early_recovery: int = bits(1, default=0)
    post_error: int = bits(1, default=0)
    data_terminate: int = bits(1, default=0)
    disable_correction: int = bits(1, default=0)
    read_retries: int = u8(default=0)
    reserved: bytes = pad(4, default=b"")
    write_retries: int = u8(default=0)
    reserved2: int = u8(default=0)
    recovery_time_limit: int = be16(default=0, unit="ms")


class CachingPage(Format):
    """Page 08h, 10 or 18 bytes after its head; the last eight are zero here."""

    initiator_control: int = bits(1, of=8, msb=True, default=0)
    abort_prefetch: int = bits(1, default=0)
    caching_analysis: int = bits(1, default=0)
    discontinuity: int = bits(1, default=0)
    size_enable: int = bits(1, default=0)
    write_cache: int = bits(1, default=0)
    multiplication_factor: int = bits(1, default=0)
    read_cache_disable: int = bits(1, default=0)
    read_retention: int = bits(4, of=8, msb=True, default=0)
    write_retention: int = bits(4, default=0)
    disable_prefetch_length: int = be16(default=0)
    min_prefetch: int = be16(default=0)
    max_prefetch: int = be16(default=0)
    max_prefetch_ceiling: int = be16(default=0)


class LongCachingPage(CachingPage):
    """Page 08h with the fields that SBC added."""

    force_sequential: int = bits(1, of=8, msb=True, default=0)
    segment_in_blocks: int = bits(1, default=0)
    read_ahead_disable: int = bits(1, default=0)
    vendor_specific: int = bits(2, default=0)
    sync_progress: int = bits(2, default=0)
    nv_disable: int = bits(1, default=0)
    segments: int = u8(default=0)
    segment_size: int = be16(default=0)
    reserved: bytes = pad(4, default=b"")


class ControlPage(Format):
    """Page 0Ah."""

    task_set_type: int = bits(3, of=8, msb=True, default=0)
    task_management_only: int = bits(1, default=0)
    dpi_check: int = bits(1, default=0)
    descriptor_sense: int = bits(1, default=0)
    log_save_implicit: int = bits(1, default=0)
    report_log_exception: int = bits(1, default=0)
    queue_algorithm: int = bits(4, of=8, msb=True, default=0)
    no_unit_attention_on_release: int = bits(1, default=0)
    queue_error: int = bits(2, default=0)
    disable_queue: int = bits(1, default=0)
    verify_after_write: int = bits(1, of=8, msb=True, default=0)
    report_attention: int = bits(1, default=0)
    attention_interlock: int = bits(2, default=0)
    software_write_protect: int = bits(1, default=0)
    reserved: int = bits(3, default=0)
    application_tag_owner: int = bits(1, of=8, msb=True, default=0)
    task_aborted_status: int = bits(1, default=0)
    application_tag_mode: int = bits(1, default=0)
    reserved2: int = bits(2, default=0)
    autoload: int = bits(3, default=0)
    obsolete: int = be16(default=0)
    busy_timeout: int = be16(default=0, unit="100 ms")
    self_test_time: int = be16(default=0, unit="s")


class PowerConditionPage(Format):
    """Page 1Ah, as MMC has it."""

    reserved: int = u8(default=0)
    reserved2: int = bits(6, of=8, msb=True, default=0)
    idle: int = bits(1, default=0)
    standby: int = bits(1, default=0)
    idle_timer: int = be32(default=0, unit="100 ms")
    standby_timer: int = be32(default=0, unit="100 ms")


class InformationalExceptionsPage(Format):
    """Page 1Ch."""

    performance: int = bits(1, of=8, msb=True, default=0)
    reserved: int = bits(1, default=0)
    background: int = bits(1, default=0)
    enable_warning: int = bits(1, default=0)
    disable_control: int = bits(1, default=0)
    test: int = bits(1, default=0)
    error_background: int = bits(1, default=0)
    log_errors: int = bits(1, default=0)
    reserved2: int = bits(4, of=8, msb=True, default=0)
    method: int = bits(4, default=0)
    interval: int = be32(default=0, unit="100 ms")
    report_count: int = be32(default=0)


class TimeoutProtectPage(Format):
    """Page 1Dh of a DVD."""

    reserved: bytes = pad(2, default=b"")
    reserved2: int = bits(4, of=8, msb=True, default=0)
    group3_enable: int = bits(1, default=0)
    timeout_enable: int = bits(1, default=0)
    disable_protect: int = bits(1, default=0)
    software_write_protect: int = bits(1, default=0)
    reserved3: int = u8(default=0)
    group1_timeout: int = be16(default=0, unit="s")
    group2_timeout: int = be16(default=0, unit="s")
    group3_timeout: int = be16(default=0, unit="s")


class CapabilitiesPage(Format):
    """Page 2Ah: what a DVD drive can do; Linux's sr reads it."""

    reserved: int = bits(2, of=8, msb=True, default=0)
    dvd_ram_read: int = bits(1, default=0)
    dvd_r_read: int = bits(1, default=0)
    dvd_rom_read: int = bits(1, default=0)
    method2: int = bits(1, default=0)
    cd_rw_read: int = bits(1, default=0)
    cd_r_read: int = bits(1, default=0)
    reserved2: int = bits(2, of=8, msb=True, default=0)
    dvd_ram_write: int = bits(1, default=0)
    dvd_r_write: int = bits(1, default=0)
    reserved3: int = bits(1, default=0)
    test_write: int = bits(1, default=0)
    cd_rw_write: int = bits(1, default=0)
    cd_r_write: int = bits(1, default=0)
    buffer_underrun: int = bits(1, of=8, msb=True, default=0)
    multi_session: int = bits(1, default=0)
    mode2_form2: int = bits(1, default=0)
    mode2_form1: int = bits(1, default=0)
    digital_port2: int = bits(1, default=0)
    digital_port1: int = bits(1, default=0)
    composite: int = bits(1, default=0)
    audio_play: int = bits(1, default=0)
    bar_code: int = bits(1, of=8, msb=True, default=0)
    upc: int = bits(1, default=0)
    isrc: int = bits(1, default=0)
    c2_pointers: int = bits(1, default=0)
    rw_corrected: int = bits(1, default=0)
    rw_supported: int = bits(1, default=0)
    cdda_accurate: int = bits(1, default=0)
    cdda_commands: int = bits(1, default=0)
    loading_mechanism: int = bits(3, of=8, msb=True, default=0, doc="1 is a tray")
    reserved4: int = bits(1, default=0)
    eject: int = bits(1, default=0)
    prevent_jumper: int = bits(1, default=0)
    lock_state: int = bits(1, default=0)
    lock: int = bits(1, default=0)
    reserved5: int = bits(2, of=8, msb=True, default=0)
    rw_in_lead_in: int = bits(1, default=0)
    side_change: int = bits(1, default=0)
    software_slot: int = bits(1, default=0)
    disc_present: int = bits(1, default=0)
    separate_mute: int = bits(1, default=0)
    separate_volume: int = bits(1, default=0)
    max_read_speed: int = be16(default=0, unit="kB/s")
    volume_levels: int = be16(default=0)
    buffer_size: int = be16(default=0, unit="KiB")
    read_speed: int = be16(default=0, unit="kB/s")
    reserved6: int = u8(default=0)
    digital_output: int = u8(default=0)
    max_write_speed: int = be16(default=0, unit="kB/s")
    write_speed: int = be16(default=0, unit="kB/s")


MODE_PAGES: dict[int, type[Format]] = {
    ModePageCode.ERROR_RECOVERY: ErrorRecoveryPage,
    ModePageCode.CONTROL: ControlPage,
    ModePageCode.POWER_CONDITION: PowerConditionPage,
    ModePageCode.INFORMATIONAL_EXCEPTIONS: InformationalExceptionsPage,
    ModePageCode.TIMEOUT_PROTECT: TimeoutProtectPage,
    ModePageCode.CAPABILITIES: CapabilitiesPage,
}
"""Pages of one length only."""

_CASES: dict[int, type[Format] | tuple[type[Format], ...]] = {
    **{code << 8 | fmt.SIZE: fmt for code, fmt in MODE_PAGES.items()},
    ModePageCode.CACHING << 8 | CachingPage.SIZE: CachingPage,
    ModePageCode.CACHING << 8 | LongCachingPage.SIZE: LongCachingPage,
}


class ModePage(Format):
    """A mode page; its parameters are told apart by code and length."""

    saveable: int = bits(1, of=8, msb=True, default=0)
    subpage_format: int = bits(1, default=0)
    code: ModePageCode = bits(6, ModePageCode)
    length: int = u8(unit="bytes", doc="after this field")
    parameters: Format | bytes = variant(on="code * 256 + length", cases=_CASES)


class BlockDescriptor(Format):
    """How many blocks of which size."""

    blocks: int = be32(default=0)
    density: int = u8(default=0)
    block_size: int = be24(unit="bytes")


class ModeParameters6(Format):
    """What MODE SENSE (6) returns and MODE SELECT (6) sends."""

    data_length: int = u8(unit="bytes", doc="after this field; 0 in MODE SELECT")
    medium_type: int = u8(default=0)
    write_protected: int = bits(1, of=8, msb=True, default=0)
    reserved: int = bits(2, default=0)
    fua: int = bits(1, default=0, doc="DPO and FUA are supported")
    reserved2: int = bits(4, default=0)
    block_descriptor_length: int = u8(default=0, unit="bytes")
    block_descriptors: tuple[BlockDescriptor, ...] = items(BlockDescriptor, count="block_descriptor_length // 8")
    pages: tuple[ModePage, ...] = items(ModePage)


class ModeParameters10(Format):
    """What MODE SENSE (10) returns and MODE SELECT (10) sends."""

    data_length: int = be16(unit="bytes", doc="after this field; 0 in MODE SELECT")
    medium_type: int = u8(default=0)
    write_protected: int = bits(1, of=8, msb=True, default=0)
    reserved: int = bits(2, default=0)
    fua: int = bits(1, default=0)
    reserved2: int = bits(4, default=0)
    reserved3: int = bits(7, of=8, msb=True, default=0)
    long_lba: int = bits(1, default=0)
    reserved4: int = u8(default=0)
    block_descriptor_length: int = be16(default=0, unit="bytes")
    block_descriptors: tuple[BlockDescriptor, ...] = items(BlockDescriptor, count="block_descriptor_length // 8")
    pages: tuple[ModePage, ...] = items(ModePage)


class LogPage(Format):
    """A log page."""

    disable_save: int = bits(1, of=8, msb=True, default=0)
    subpage_format: int = bits(1, default=0)
    code: int = bits(6)
    subpage: int = u8(default=0)
    length: int = be16(unit="bytes")
    parameters: bytes = blob(length="length")

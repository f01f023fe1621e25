// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * User-Mode Linux as a Hyper-V guest: what arch/x86 and arch/arm64 supply to the drivers in drivers/hv and their like.
 * Register accesses and hypercalls become frames of the partition protocol (partition.c); VMBus' interrupt is an
 * ordinary User-Mode Linux interrupt. The order of initialization follows arch/arm64/hyperv/mshyperv.c.
 *
 * One processor, and no hypercalls beyond posting messages and signalling events: no memory deposits, no TLB flushes, no
 * extended hypercalls, no synthetic timers. The features below advertise no more than that.
 */
#define pr_fmt(fmt) "vmbus: " fmt

#include <linux/acpi.h>
#include <linux/console.h>
#include <linux/cpuhotplug.h>
#include <linux/init.h>
#include <linux/interrupt.h>
#include <linux/kernel.h>
#include <linux/panic_notifier.h>
#include <linux/platform_device.h>
#include <linux/printk.h>
#include <linux/version.h>
#include <asm/hyperv-tlfs.h>
#include <asm/mshyperv.h>
#include <init.h>
#include <irq_kern.h>
#include <os.h>
#include "partition.h"
#include "partition_user.h"
#include "protocol.h"

static bool initialized;
static int interrupt_fd;
static bool interrupt_is_eventfd;
static void (*vmbus_handler)(void);
static void (*crash_handler)(struct pt_regs *regs);

bool hv_is_hyperv_initialized(void)
{
	return initialized;
}
EXPORT_SYMBOL_GPL(hv_is_hyperv_initialized);

/* Registers */

void hv_set_msr(unsigned int msr, u64 value)
{
	if (msr == HV_X64_MSR_SIEFP)
		polling_set_flags_page(value);
	partition_set_register(msr, value);
}
EXPORT_SYMBOL_GPL(hv_set_msr);

u64 hv_get_msr(unsigned int msr)
{
	if (msr == HV_X64_MSR_VP_INDEX)
		return 0;
	return partition_get_register(msr);
}
EXPORT_SYMBOL_GPL(hv_get_msr);

/* Hypercalls */

#define HYPERCALL_CODE_MASK	0xffff

/* The input of HvCallPostMessage (TLFS 11.11.1). The kernel's own definition is private to drivers/hv. */
struct post_message_input {
	u32 connection_id;
	u32 reserved;
	u32 message_type;
	u32 payload_size;
	u8 payload[HV_MESSAGE_PAYLOAD_BYTE_COUNT];
};

static u64 signal_event(u64 input)
{
	/* struct hv_input_signal_event: connection id, flag number, 16 reserved bits. */
	partition_signal_event(lower_32_bits(input), upper_32_bits(input) & 0xffff);
	return HV_STATUS_SUCCESS;
}

u64 hv_do_hypercall(u64 control, void *input, void *output)
{
	/*
	 * The parameters are read here and go to the host in a frame, so it does not matter whether @input lies in the
	 * memory file. (Static variables do not: the kernel image's own pages are not in it.)
	 */
	switch (control & HYPERCALL_CODE_MASK) {
	case HVCALL_POST_MESSAGE: {
		const struct post_message_input *message = input;

		return partition_post_message(message->connection_id, message->message_type, message->payload,
					      message->payload_size);
	}
	case HVCALL_SIGNAL_EVENT:
		return signal_event(*(u64 *)input);
	default:
		pr_warn_once("hypercall 0x%llx is not implemented\n", control);
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	}
}
EXPORT_SYMBOL_GPL(hv_do_hypercall);

u64 hv_do_fast_hypercall8(u16 code, u64 input)
{
	if (code == HVCALL_SIGNAL_EVENT)
		return signal_event(input);
	pr_warn_once("fast hypercall 0x%x is not implemented\n", code);
	return HV_STATUS_INVALID_HYPERCALL_CODE;
}
EXPORT_SYMBOL_GPL(hv_do_fast_hypercall8);

/* The interrupt. hv_common.c exports the two functions that set and remove its handler, and defines them weakly. */

void hv_setup_vmbus_handler(void (*handler)(void))
{
	vmbus_handler = handler;
}

void hv_remove_vmbus_handler(void)
{
	vmbus_handler = NULL;
}

bool partition_handle_events(void)
{
	if (!vmbus_handler)
		return false;
	vmbus_handler();
	return true;
}

static irqreturn_t partition_interrupt(int irq, void *unused)
{
	/* Empty the descriptor first: what the host raises from here on is a new interrupt. */
	if (partition_user_drain(interrupt_fd))
		partition_check_host();
	partition_handle_events();
	polling_interrupted();
	return IRQ_HANDLED;
}

static int __init choose_interrupt(char *value)
{
	interrupt_is_eventfd = !strcmp(value, "eventfd");
	return 1;
}
__setup("vmbus_interrupt=", choose_interrupt);

/* What the kernel says, for the host's capture. */

static void note_kernel_log(struct console *unused, const char *text, unsigned int length)
{
	if (length && text[length - 1] == '\n')
		length--;
	partition_note(PARTITION_NOTE_LOG, text, length);
}

static struct console note_console = {
	.name = "vmbus",
	.write = note_kernel_log,
	.flags = CON_PRINTBUFFER | CON_ENABLED | CON_ANYTIME,
	.index = -1,
};

/* Panics */

void hv_setup_crash_handler(void (*handler)(struct pt_regs *regs))
{
	crash_handler = handler;
}

void hv_remove_crash_handler(void)
{
	crash_handler = NULL;
}

/*
 * Runs before User-Mode Linux's own panic notifier, which does not return: tell the host why, and take leave of it
 * (VMBus' UNLOAD) as a guest on Hyper-V does. The crash registers follow from kmsg_dump().
 */
static int tell_host_of_panic(struct notifier_block *unused, unsigned long event, void *reason)
{
	partition_panicking();
	partition_note(PARTITION_NOTE_CRASH, reason, strlen(reason));
	if (crash_handler)
		crash_handler(NULL);
	return NOTIFY_DONE;
}

static struct notifier_block panic_block = {
	.notifier_call = tell_host_of_panic,
	.priority = INT_MAX,
};

/* The report without the kernel's log, registers only; as in arch/x86/hyperv/hv_init.c. */
void hyperv_report_panic(struct pt_regs *regs, long err, bool in_die)
{
	static bool reported;

	if (reported || (in_die && !panic_on_oops))
		return;
	reported = true;

	hv_set_msr(HV_X64_MSR_CRASH_P0, err);
	hv_set_msr(HV_X64_MSR_CRASH_P1, hv_get_msr(HV_X64_MSR_GUEST_OS_ID));
	hv_set_msr(HV_X64_MSR_CRASH_P2, regs ? PT_REGS_IP(regs) : 0);
	hv_set_msr(HV_X64_MSR_CRASH_P3, regs ? PT_REGS_AX(regs) : 0);
	hv_set_msr(HV_X64_MSR_CRASH_P4, regs ? PT_REGS_SP(regs) : 0);
	hv_set_msr(HV_X64_MSR_CRASH_CTL, HV_CRASH_CTL_CRASH_NOTIFY);
}
EXPORT_SYMBOL_GPL(hyperv_report_panic);

/* Initialization */

int hv_get_hypervisor_version(union hv_hypervisor_version_info *info)
{
	return -ENODEV;		/* the partition protocol has no such thing: print nothing */
}
EXPORT_SYMBOL_GPL(hv_get_hypervisor_version);

static int __init hyperv_platform_init(void)
{
	int host_end, err;

	if (!partition_configured())
		return 0;

	interrupt_fd = partition_user_interrupt(interrupt_is_eventfd, &host_end);
	if (interrupt_fd < 0) {
		pr_err("no interrupt descriptor (error %d)\n", -interrupt_fd);
		return interrupt_fd;
	}
	err = um_request_irq(UM_IRQ_ALLOC, interrupt_fd, IRQ_READ, partition_interrupt, 0, "vmbus", NULL);
	if (err < 0) {
		pr_err("no interrupt (error %d)\n", -err);
		return err;
	}
	err = partition_connect(host_end);
	if (err)
		return err;

	ms_hyperv.features = HV_MSR_TIME_REF_COUNT_AVAILABLE | HV_MSR_SYNIC_AVAILABLE | HV_MSR_HYPERCALL_AVAILABLE |
			     HV_MSR_VP_INDEX_AVAILABLE;
	ms_hyperv.priv_high = HV_POST_MESSAGES | HV_SIGNAL_EVENTS;
	ms_hyperv.misc_features = HV_FEATURE_GUEST_CRASH_MSR_AVAILABLE;
	ms_hyperv.hints = HV_DEPRECATING_AEOI_RECOMMENDED;
	hv_set_msr(HV_X64_MSR_GUEST_OS_ID, hv_generate_guest_id(LINUX_VERSION_CODE));

	err = hv_common_init();
	if (err)
		return err;
	err = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "um/hyperv:online", hv_common_cpu_init, hv_common_cpu_die);
	if (err < 0) {
		hv_common_free();
		return err;
	}

	atomic_notifier_chain_register(&panic_notifier_list, &panic_block);
	register_console(&note_console);
	initialized = true;
	return 0;
}
early_initcall(hyperv_platform_init);

/*
 * After these, a kernel that halts jumps to the stack that main() began on, and lets the signals that waited meanwhile be
 * handled there (arch/um/os-Linux/main.c). But there is no current task on that stack: a tick that came in between is a
 * segmentation fault, and the process ends with SIGABRT in place of its exit status. So none may wait.
 */
static void stop_interrupts(void)
{
	partition_user_stop_watching();
	partition_user_ignore_interrupts();
}
__uml_exitcall(stop_interrupts);

/* The device that VMBus' driver binds to: firmware describes it elsewhere, so here it is made by hand. */

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)

static int __init add_vmbus_device(void)
{
	return initialized ? PTR_ERR_OR_ZERO(platform_device_register_simple("vmbus", -1, NULL, 0)) : 0;
}
arch_initcall(add_vmbus_device);

#else /* the driver is an ACPI driver: a bus of one device, asm/hyperv_acpi.h */

static struct acpi_device vmbus_acpi_device;

static void release_vmbus_device(struct device *unused)
{
}

int acpi_bus_register_driver(struct acpi_driver *driver)
{
	int err;

	/* A reloaded module registers it anew, and a device can be registered only once. */
	memset(&vmbus_acpi_device, 0, sizeof(vmbus_acpi_device));
	vmbus_acpi_device.dev.init_name = "VMBUS:00";
	vmbus_acpi_device.dev.release = release_vmbus_device;
	err = device_register(&vmbus_acpi_device.dev);
	if (err) {
		put_device(&vmbus_acpi_device.dev);
		return err;
	}
	err = driver->ops.add(&vmbus_acpi_device);
	if (err)
		device_unregister(&vmbus_acpi_device.dev);
	return err;
}
EXPORT_SYMBOL_GPL(acpi_bus_register_driver);

void acpi_bus_unregister_driver(struct acpi_driver *driver)
{
	driver->ops.remove(&vmbus_acpi_device);
	device_unregister(&vmbus_acpi_device.dev);
}
EXPORT_SYMBOL_GPL(acpi_bus_unregister_driver);

#endif

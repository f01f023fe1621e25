// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's end of the partition protocol (docs/partition-protocol.md): the hello, registers, posted messages, signals
 * and notes; and taking up the connection again with a host that was restarted.
 */
#define pr_fmt(fmt) "vmbus: " fmt

#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/reboot.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/workqueue.h>
#include <asm/hyperv-tlfs.h>
#include <asm/page.h>
#include <as-layout.h>
#include <kern_util.h>
#include <mem.h>
#include <os.h>
#include "partition.h"
#include "partition_user.h"
#include "protocol.h"

#define RECONNECT_INTERVAL_MS	100

extern unsigned long long physmem_size;
extern int uml_exitcode;

/*
 * One lock for the socket and the sequence: calls come from processes, interrupts and panics alike. It is raw because
 * the console's notes take it inside printk. Nothing may print while it is held, except on the way to ending the guest.
 */
static DEFINE_RAW_SPINLOCK(call_lock);

static char socket_path[108];		/* as long as sun_path */
static unsigned int reconnect_seconds;
static int sock = -1;
static int interrupt_fd;
static bool host_gone;		/* for good: calls fail at once, posts go nowhere */
static bool panicking;		/* nobody waits for a host to come back any more */

static u32 last_sequence;
static u8 guest_id[16];

/* What the guest set, for a host that knows it only from its saved state, or not any more. Zero is how each begins. */
static struct {
	u64 guest_os_id;
	u64 scontrol;
	u64 siefp;
	u64 simp;
	u64 sint[HV_SYNIC_SINT_COUNT];
} registers;

static int __init set_socket_path(char *value)
{
	strscpy(socket_path, value, sizeof(socket_path));
	return 1;
}
__setup("vmbus=", set_socket_path);

static int __init set_reconnect_seconds(char *value)
{
	if (kstrtouint(value, 0, &reconnect_seconds))
		pr_warn("vmbus_reconnect=%s is not a number of seconds\n", value);
	return 1;
}
__setup("vmbus_reconnect=", set_reconnect_seconds);

bool partition_configured(void)
{
	return socket_path[0];
}

/*
 * Halting wants a process, and calls are made from interrupts too. So the guest ends a moment later, and until then calls
 * fail at once and posts go nowhere.
 */
static int final_status;

static void halt(struct work_struct *unused)
{
	uml_exitcode = final_status;
	machine_halt();
}
static DECLARE_WORK(halt_work, halt);

/* The last words go to the process's standard error: the kernel's console may be the very caller. */
#define end_guest(status, format, ...) do {				\
	os_warn("vmbus: " format "\n", ##__VA_ARGS__);			\
	host_gone = true;						\
	final_status = (status);					\
	schedule_work(&halt_work);					\
} while (0)

static void start_frame(struct partition_header *header, u16 op, u32 length)
{
	*header = (struct partition_header) { .length = length, .op = op };
}

/*
 * Receive the reply to @op with @sequence into @reply, which has room for @size bytes and is zeroed beyond what came.
 * -EPROTO: the host does not speak this protocol.
 */
static int receive_reply(u16 op, u32 sequence, struct partition_header *reply, u32 size)
{
	int err = partition_user_receive(sock, reply, sizeof(*reply));
	u32 left, kept;
	u64 unknown;

	if (err)
		return err;
	if (reply->op != (op | PARTITION_REPLY) || reply->sequence != sequence ||
	    reply->length < sizeof(*reply) || reply->length > PARTITION_FRAME_MAX)
		return -EPROTO;

	memset(reply + 1, 0, size - sizeof(*reply));
	left = reply->length - sizeof(*reply);
	kept = min_t(u32, left, size - sizeof(*reply));
	err = partition_user_receive(sock, reply + 1, kept);

	/* Fields that a later minor version appended. */
	for (left -= kept; left && !err; left -= kept) {
		kept = min_t(u32, left, sizeof(unknown));
		err = partition_user_receive(sock, &unknown, kept);
	}
	return err;
}

/* Say hello on a fresh socket. Returns the host's answer (enum partition_hello_status) or a negative errno. */
static int say_hello(void)
{
	struct partition_hello hello = {
		.magic = PARTITION_MAGIC,
		.major = PARTITION_MAJOR,
		.minor = PARTITION_MINOR,
		.features = PARTITION_FEATURE_POLLING_WORD | (reconnect_seconds ? PARTITION_FEATURE_RECONNECT : 0),
		.memory_size = physmem_size,
		.first_gpa = PAGE_ALIGN(__pa(uml_reserved)),
		.vp_count = 1,
		.last_sequence = last_sequence,
	};
	struct partition_hello_reply reply;
	unsigned long long offset;
	int descriptors[2], err;

	memcpy(hello.guest_id, guest_id, sizeof(guest_id));
	descriptors[0] = phys_mapping(hello.first_gpa, &offset);
	descriptors[1] = interrupt_fd;

	start_frame(&hello.header, PARTITION_HELLO, sizeof(hello));
	err = partition_user_send(sock, &hello, sizeof(hello), descriptors, ARRAY_SIZE(descriptors));
	if (!err)
		err = receive_reply(PARTITION_HELLO, 0, &reply.header, sizeof(reply));
	if (err)
		return err;
	if (reply.header.status == PARTITION_OK && reply.major != PARTITION_MAJOR)
		return -EPROTO;
	return reply.header.status;
}

static int send_register(u32 msr, u64 value)
{
	struct partition_register frame = { .msr = msr, .value = value };

	start_frame(&frame.header, PARTITION_SET_REGISTER, sizeof(frame));
	return partition_user_send(sock, &frame, sizeof(frame), NULL, 0);
}

static int send_registers(void)
{
	int sint, err;

	err = send_register(HV_X64_MSR_GUEST_OS_ID, registers.guest_os_id);
	err = err ?: send_register(HV_X64_MSR_SIMP, registers.simp);
	err = err ?: send_register(HV_X64_MSR_SIEFP, registers.siefp);
	for (sint = 0; sint < HV_SYNIC_SINT_COUNT && !err; sint++)
		if (registers.sint[sint])
			err = send_register(HV_X64_MSR_SINT0 + sint, registers.sint[sint]);
	return err ?: send_register(HV_X64_MSR_SCONTROL, registers.scontrol);
}

static u64 *register_to_keep(u32 msr)
{
	switch (msr) {
	case HV_X64_MSR_GUEST_OS_ID:
		return &registers.guest_os_id;
	case HV_X64_MSR_SCONTROL:
		return &registers.scontrol;
	case HV_X64_MSR_SIEFP:
		return &registers.siefp;
	case HV_X64_MSR_SIMP:
		return &registers.simp;
	case HV_X64_MSR_SINT0 ... HV_X64_MSR_SINT0 + HV_SYNIC_SINT_COUNT - 1:
		return &registers.sint[msr - HV_X64_MSR_SINT0];
	default:
		return NULL;
	}
}

static const char *refusal(int status)
{
	switch (status) {
	case PARTITION_BAD_VERSION:
		return "it does not know protocol version 1.0";
	case PARTITION_BAD_MEMORY:
		return "it cannot use the guest's memory file";
	case PARTITION_BUSY:
		return "it is serving another guest";
	case PARTITION_MALFORMED:
		return "it found the hello malformed";
	case PARTITION_UNKNOWN_GUEST:
		return "it has no saved state of this guest";
	case -EPROTO:
		return "it does not speak the partition protocol";
	default:
		return "for a reason that this guest does not know";
	}
}

static bool host_is_away(int status)
{
	return status == PARTITION_BUSY || (status < 0 && status != -EPROTO);
}

/* The socket is dead: return with a connected one whose host knows all registers, or end the guest. */
static void host_lost(void)
{
	unsigned int tries = reconnect_seconds * (MSEC_PER_SEC / RECONNECT_INTERVAL_MS);

	if (panicking) {
		host_gone = true;
		return;
	}
	if (!reconnect_seconds) {
		end_guest(EXIT_HOST_GONE, "host closed the connection");
		return;
	}

	os_warn("vmbus: host closed the connection, waiting %u s for it to return\n", reconnect_seconds);
	partition_user_close(sock);
	while (tries--) {
		int status;

		partition_user_sleep(RECONNECT_INTERVAL_MS);
		sock = partition_user_connect(socket_path);
		if (sock < 0)
			continue;
		status = say_hello();
		if (status == PARTITION_OK && !send_registers() && !partition_user_watch(sock)) {
			os_warn("vmbus: host is back\n");
			return;
		}
		partition_user_close(sock);
		if (status != PARTITION_OK && !host_is_away(status)) {
			end_guest(EXIT_HOST_REFUSED, "host refused to resume this guest: %s", refusal(status));
			return;
		}
	}
	end_guest(EXIT_HOST_GONE, "host did not return within %u s", reconnect_seconds);
}

int partition_connect(int interrupt)
{
	int status;

	interrupt_fd = interrupt;
	partition_user_random(guest_id, sizeof(guest_id));

	sock = partition_user_connect(socket_path);
	if (sock < 0) {
		end_guest(EXIT_HOST_GONE, "no host listens at %s (error %d)", socket_path, -sock);
		return sock;
	}
	status = say_hello();
	if (status > 0 || status == -EPROTO) {
		end_guest(EXIT_HOST_REFUSED, "host refused this guest: %s", refusal(status));
		return -ECONNREFUSED;
	}
	if (status < 0 || partition_user_watch(sock)) {
		end_guest(EXIT_HOST_GONE, "host closed the connection");
		return -ECONNRESET;
	}
	return 0;
}

void partition_check_host(void)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&call_lock, flags);
	if (!host_gone && partition_user_hung_up(sock))
		host_lost();
	raw_spin_unlock_irqrestore(&call_lock, flags);
}

/* Send a frame that is not answered. A reconnect in between makes it the first one after the hello. */
static void post(const void *frame, u32 length)
{
	while (!host_gone && partition_user_send(sock, frame, length, NULL, 0))
		host_lost();
}

/* Send a request and wait for its reply; across a reconnect the same sequence number makes sure that it is done once. */
static void call(struct partition_header *request, struct partition_header *reply, u32 size)
{
	int err;

	request->sequence = ++last_sequence;
	while (!host_gone) {
		err = partition_user_send(sock, request, request->length, NULL, 0);
		err = err ?: receive_reply(request->op, request->sequence, reply, size);
		if (!err)
			return;
		if (err == -EPROTO)
			end_guest(EXIT_HOST_REFUSED, "host answered request %u with another frame", request->op);
		else
			host_lost();
	}
	memset(reply, 0, size);
	reply->status = PARTITION_MALFORMED;
}

void partition_set_register(u32 msr, u64 value)
{
	struct partition_register frame = { .msr = msr, .value = value };
	u64 *kept = register_to_keep(msr);
	unsigned long flags;

	start_frame(&frame.header, PARTITION_SET_REGISTER, sizeof(frame));
	raw_spin_lock_irqsave(&call_lock, flags);
	if (kept)
		*kept = value;
	post(&frame, sizeof(frame));
	raw_spin_unlock_irqrestore(&call_lock, flags);
}

u64 partition_get_register(u32 msr)
{
	struct partition_register frame = { .msr = msr };
	struct partition_value_reply reply;
	unsigned long flags;

	start_frame(&frame.header, PARTITION_GET_REGISTER, PARTITION_GET_REGISTER_LENGTH);
	raw_spin_lock_irqsave(&call_lock, flags);
	call(&frame.header, &reply.header, sizeof(reply));
	raw_spin_unlock_irqrestore(&call_lock, flags);
	return reply.header.status ? 0 : reply.value;
}

u64 partition_post_message(u32 connection_id, u32 message_type, const void *payload, u32 size)
{
	struct partition_post_message frame = {
		.connection_id = connection_id,
		.message_type = message_type,
		.payload_size = size,
	};
	struct partition_value_reply reply;
	unsigned long flags;

	if (size > sizeof(frame.payload))
		return HV_STATUS_INVALID_PARAMETER;
	memcpy(frame.payload, payload, size);
	start_frame(&frame.header, PARTITION_POST_MESSAGE, offsetof(typeof(frame), payload) + size);
	raw_spin_lock_irqsave(&call_lock, flags);
	call(&frame.header, &reply.header, sizeof(reply));
	raw_spin_unlock_irqrestore(&call_lock, flags);
	return reply.header.status ? HV_STATUS_INVALID_HYPERCALL_INPUT : reply.value;
}

void partition_signal_event(u32 connection_id, u16 flag)
{
	struct partition_signal_event frame = { .connection_id = connection_id, .flag = flag };
	unsigned long flags;

	start_frame(&frame.header, PARTITION_SIGNAL_EVENT, sizeof(frame));
	raw_spin_lock_irqsave(&call_lock, flags);
	post(&frame, sizeof(frame));
	raw_spin_unlock_irqrestore(&call_lock, flags);
}

void partition_note(u32 kind, const char *text, unsigned int length)
{
	static struct partition_note frame;	/* too large for a stack; guarded by call_lock */
	unsigned long flags;

	raw_spin_lock_irqsave(&call_lock, flags);
	length = min_t(unsigned int, length, sizeof(frame.text));
	start_frame(&frame.header, PARTITION_NOTE, offsetof(typeof(frame), text) + length);
	frame.kind = kind;
	memcpy(frame.text, text, length);
	post(&frame, frame.header.length);
	raw_spin_unlock_irqrestore(&call_lock, flags);
}

void partition_panicking(void)
{
	panicking = true;
}

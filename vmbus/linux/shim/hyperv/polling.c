// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Polling for events while the guest is idle.
 *
 * An interrupt costs the host a system call, and this process a signal, a few system calls and often a processor that has to
 * be woken. So while events come in quick succession, a thread that runs only when nothing else wants to watches the event
 * flags, and handles them as the interrupt would. Meanwhile it says so in the polling word, the last 32 bits of the event
 * flags page, and a host that knows the word (docs/partition-protocol.md) raises no interrupt. The thread gives up when
 * nothing has come for a while, and whenever another one wants to run.
 *
 * It needs a processor of its own. Where this process and the host share the only one, nobody polls; and when time jumps
 * while the thread looks, the machine has given the processor to somebody else, and it does not poll for a while.
 */
#include <linux/hardirq.h>
#include <linux/init.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <uapi/linux/sched/types.h>
#include <asm/hyperv-tlfs.h>
#include <asm/page.h>
#include "partition.h"
#include "partition_user.h"

#define VMBUS_SINT		2
#define LONGS_PER_SINT		HV_EVENT_FLAGS_LONG_COUNT
#define POLLING_WORD		(HV_HYP_PAGE_SIZE / sizeof(u32) - 1)
#define LOOKS_PER_TIME_CHECK	64
#define JUMP_NS			NSEC_PER_MSEC		/* of time; so many looks take some microseconds */
#define REFRAIN_NS		(100 * NSEC_PER_MSEC)
#define RETRY_NS		(10 * NSEC_PER_MSEC)

static unsigned int longest_us = 200;	/* how long to poll after an event; 0: never */
static u64 last_event;
static u64 refrain_until;	/* others need the processor */
static u64 failed;		/* when polling last ended with nothing */
static bool wanted;
static DECLARE_WAIT_QUEUE_HEAD(wanted_wait);
static void *flags_page;

static int __init set_longest(char *value)
{
	if (kstrtouint(value, 0, &longest_us))
		pr_warn("vmbus: vmbus_poll=%s is not a number of microseconds\n", value);
	return 1;
}
__setup("vmbus_poll=", set_longest);

void polling_set_flags_page(u64 siefp)
{
	/* The guest allocated it, so it is mapped. */
	WRITE_ONCE(flags_page, siefp & HV_SYNIC_SIEFP_ENABLE ? __va(siefp & PAGE_MASK) : NULL);
}

static bool event_is_there(void *page)
{
	unsigned long *flags = (unsigned long *)page + VMBUS_SINT * LONGS_PER_SINT, found = 0;
	unsigned int i;

	for (i = 0; i < LONGS_PER_SINT; i++)
		found |= READ_ONCE(flags[i]);
	return found;
}

static bool handle_events(void *page)
{
	unsigned long flags;
	bool handled = false;

	if (event_is_there(page)) {
		local_irq_save(flags);
		irq_enter();
		handled = partition_handle_events();
		irq_exit();
		local_irq_restore(flags);
	}
	return handled;
}

static void say(u32 *word, u32 polling)
{
	WRITE_ONCE(*word, polling);
	mb();	/* not smp_mb(): the other processor is the host's, which reads the word after it has set a flag */
}

/* Look a few times. Returns the time; sets refrain_until if somebody else had the processor meanwhile. */
static u64 look(void *page, u64 before)
{
	unsigned int looks = LOOKS_PER_TIME_CHECK;
	u64 now;

	while (looks-- && !need_resched() && !event_is_there(page))
		cpu_relax();
	now = ktime_get_ns();
	if (now - before > JUMP_NS)
		refrain_until = now + REFRAIN_NS;
	return now;
}

static void poll(void *page)
{
	u32 *word = (u32 *)page + POLLING_WORD;
	u64 now = ktime_get_ns(), until = now + longest_us * NSEC_PER_USEC;

	say(word, 1);
	while (now < until && now >= refrain_until && READ_ONCE(flags_page) == page) {
		now = look(page, now);
		if (handle_events(page)) {
			now = ktime_get_ns();
			until = now + longest_us * NSEC_PER_USEC;
		}
		if (need_resched()) {
			/* Others run first, and meanwhile events interrupt them. What they start is worth waiting for again. */
			say(word, 0);
			handle_events(page);
			cond_resched();
			now = ktime_get_ns();
			until = now + longest_us * NSEC_PER_USEC;
			say(word, 1);
		}
	}
	say(word, 0);
	if (!handle_events(page))
		failed = now;
}

static int poll_when_wanted(void *unused)
{
	while (!kthread_should_stop()) {
		void *page;

		wait_event_interruptible(wanted_wait, READ_ONCE(wanted) || kthread_should_stop());
		WRITE_ONCE(wanted, false);
		page = READ_ONCE(flags_page);
		if (page)
			poll(page);
	}
	return 0;
}

void polling_interrupted(void)
{
	u64 now = ktime_get_ns();

	/*
	 * An event that comes by interrupt has taken longer than one that is polled for: two processors had to wake up. So
	 * twice the time may pass, if the last attempt has not just failed.
	 */
	u64 quick = longest_us * NSEC_PER_USEC * (now - failed < RETRY_NS ? 1 : 2);

	if (now - last_event < quick && now >= refrain_until && !wanted) {
		WRITE_ONCE(wanted, true);
		wake_up(&wanted_wait);
	}
	last_event = now;
}

static int __init start_polling(void)
{
	const struct sched_param none = { .sched_priority = 0 };
	struct task_struct *thread;

	if (!partition_configured() || !longest_us || partition_user_processors() < 2) {
		longest_us = 0;
		return 0;
	}
	thread = kthread_create(poll_when_wanted, NULL, "vmbus_poll");
	if (IS_ERR(thread)) {
		longest_us = 0;
		return PTR_ERR(thread);
	}
	sched_setscheduler_nocheck(thread, SCHED_IDLE, &none);
	wake_up_process(thread);
	return 0;
}
device_initcall(start_polling);

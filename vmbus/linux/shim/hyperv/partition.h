/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The connection to the process that plays the host: what hyperv_platform.c asks of partition.c. Every call may be made in
 * any context; calls that wait for an answer wait with interrupts off, as a hypercall would. If the host is gone, a call
 * reconnects when vmbus_reconnect= allows it, or else fails, and the guest ends a moment later.
 */
#ifndef _HV_UM_PARTITION_H
#define _HV_UM_PARTITION_H

#include <linux/types.h>

/* The process's exit status when the guest ends because of the host. */
#define EXIT_HOST_GONE		75	/* no host at the socket, or it closed the connection */
#define EXIT_HOST_REFUSED	76	/* it refused the hello, or spoke another protocol */

/* Whether vmbus=PATH was given. */
bool partition_configured(void);

/*
 * Connect and say hello. @interrupt: the descriptor for the host to raise VP 0's interrupt with. On an error the guest is
 * about to end.
 */
int partition_connect(int interrupt);

/* The watcher saw the socket close: reconnect or end, unless a call has dealt with it already. */
void partition_check_host(void);

void partition_set_register(u32 msr, u64 value);
u64 partition_get_register(u32 msr);
u64 partition_post_message(u32 connection_id, u32 message_type, const void *payload, u32 size);
void partition_signal_event(u32 connection_id, u16 flag);
void partition_note(u32 kind, const char *text, unsigned int length);

/* What the interrupt does with events; polling.c calls it too, with interrupts off. False: nobody handles them. */
bool partition_handle_events(void);

/* polling.c: the event flags page as its register names it, and that the host had to interrupt. */
void polling_set_flags_page(u64 siefp);
void polling_interrupted(void);

/* From a panic on nothing waits for a host to come back. */
void partition_panicking(void);

#endif

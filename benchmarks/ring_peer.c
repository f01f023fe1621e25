// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The other end of our rings: Linux's user-space ring (tools/hv/vmbus_bufring.c), made to sleep and to wake.
 *
 * That ring has no interrupt mask, no pending_send_size and no signals. This program adds them, by the rules of
 * drivers/hv/ring_buffer.c, as code of its own; packets go through Linux's functions only.
 *
 *   ring_peer batch|single SIZE COUNT RING            one process: 64 packets in, 64 out, or one by one
 *   ring_peer send|receive SIZE COUNT RING FD EVENTS  one way between two processes
 *   ring_peer ping|pong SIZE COUNT RING FD EVENTS     there and back between two processes
 *   ring_peer exchange 0 COUNT RING FD EVENTS         COUNT packets each way, every byte checked
 *
 * RING is the bytes of data of each ring. FD is a file with two rings, each a control page and its data. EVENTS is
 * "WAIT,SIGNAL,FIRST": the eventfds to wait on and to signal, and 1 for the end that sends in the first ring, else 0.
 * Output: packets, seconds (of the processor, in one process) and signals sent. Exit status: 0, 1 for usage, 2 for wrong data, 3 for a lost wake-up.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "vmbus_bufring.h"

#define PAGE 4096
#define LARGEST 65536
#define PATTERN 65536
#define WAKE_MS 20000

struct channel {
	struct vmbus_br out, in;
	int wait_fd, signal_fd;
	unsigned long signals;
	int blocked; /* bytes wanted in the out ring, or 0 */
};

static uint8_t pattern[PATTERN + LARGEST];

static void fail(int status, const char *why)
{
	fprintf(stderr, "ring_peer: %s\n", why);
	exit(status);
}

static void fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void signal_peer(struct channel *c)
{
	uint64_t one = 1;

	c->signals++;
	if (c->signal_fd >= 0 && write(c->signal_fd, &one, sizeof(one)) != sizeof(one))
		fail(2, "cannot signal");
}

/*
 * hv_ringbuffer_write and hv_signal_on_write; 0 when the ring is full. Linux's function takes whole words only: it
 * rounds a length down, and then pads by a negative number of bytes. So the padding is the caller's, in data.
 */
static int put(struct channel *c, void *data, uint32_t length)
{
	uint32_t old = c->out.windex;

	length = (length + 7) & ~7;
	if (rte_vmbus_chan_send(&c->out, VMBUS_CHANPKT_TYPE_INBAND, data, length, VMBUS_CHANPKT_FLAG_NONE))
		return 0;
	fence();
	if (!c->out.vbr->imask && c->out.vbr->rindex == old)
		signal_peer(c);
	return 1;
}

/* hv_ringbuffer_read and hv_pkt_iter_close; returns the packet's bytes, or 0 when the ring is empty */
static uint32_t take(struct channel *c, void *buffer)
{
	uint32_t length = LARGEST, old = c->in.vbr->rindex, pending, free_now, read;
	int result = rte_vmbus_chan_recv_raw(&c->in, buffer, &length);

	if (result == -EAGAIN)
		return 0;
	if (result < 0)
		fail(2, "a packet is malformed");
	fence();
	pending = c->in.vbr->pending_send;
	if (pending && c->in.vbr->feature_bits.feat_pending_send_sz) {
		free_now = vmbus_br_availwrite(&c->in, c->in.vbr->windex);
		read = c->in.vbr->rindex >= old ? c->in.vbr->rindex - old : c->in.dsize - old + c->in.vbr->rindex;
		if (free_now - read <= pending && free_now > pending)
			signal_peer(c);
	}
	return length;
}

/* Sleep until there is something to read, or room for what was blocked. */
static void wait_for_work(struct channel *c, int reading)
{
	struct pollfd poller = {.fd = c->wait_fd, .events = POLLIN};
	uint64_t count;

	if (c->blocked)
		c->out.vbr->pending_send = c->blocked;
	if (reading)
		c->in.vbr->imask = 0;
	fence();
	if (!(reading && vmbus_br_availread(&c->in)) &&
	    !(c->blocked && vmbus_br_availwrite(&c->out, c->out.windex) > (uint32_t)c->blocked)) {
		if (poll(&poller, 1, WAKE_MS) <= 0)
			fail(3, "no signal came: a wake-up was lost");
		if (read(c->wait_fd, &count, sizeof(count)) != sizeof(count) && errno != EAGAIN)
			fail(2, "cannot read the event");
	}
	if (reading)
		c->in.vbr->imask = 1;
	c->out.vbr->pending_send = 0;
	c->blocked = 0;
}

static void put_waiting(struct channel *c, void *data, uint32_t length)
{
	while (!put(c, data, length)) {
		c->blocked = ((length + 7) & ~7) + 24;
		wait_for_work(c, 0);
	}
}

static uint32_t take_waiting(struct channel *c, void *buffer)
{
	uint32_t length;

	while (!(length = take(c, buffer)))
		wait_for_work(c, 1);
	return length;
}

/* The same arithmetic as in tests/ring/exchange.py. */
static uint32_t exchange_length(uint64_t i)
{
	return i % 997 == 0 ? 12000 : 8 + i * 7919 % 1009;
}

static void exchange_payload(uint64_t i, uint8_t *data, uint32_t length)
{
	memset(data + (length & ~7), 0, 8);
	memcpy(data, &i, 8);
	memcpy(data + 8, pattern + i * 8 % PATTERN, length - 8);
}

static void exchange(struct channel *c, uint64_t count)
{
	static uint8_t outgoing[LARGEST], incoming[LARGEST + 16], expected[LARGEST];
	uint64_t sent = 0, received = 0;

	while (sent < count || received < count) {
		int progress = 0;

		for (int i = 0; i < 64 && sent < count; i++) {
			uint32_t length = exchange_length(sent);

			exchange_payload(sent, outgoing, length);
			if (!put(c, outgoing, length)) {
				c->blocked = ((length + 7) & ~7) + 24;
				break;
			}
			c->blocked = 0;
			sent++;
			progress = 1;
		}
		for (int i = 0; i < 64 && received < count; i++) {
			uint32_t length = exchange_length(received), padded = (length + 7) & ~7, got = take(c, incoming);

			if (!got)
				break;
			exchange_payload(received, expected, length);
			if (got != padded + 16 || memcmp(incoming + 16, expected, padded))
				fail(2, "a payload is wrong");
			received++;
			progress = 1;
		}
		if (!progress)
			wait_for_work(c, received < count);
	}
}

static double now(int alone)
{
	struct timespec t;

	clock_gettime(alone ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
	static uint8_t data[LARGEST], buffer[LARGEST + 16];
	struct channel c = {.wait_fd = -1, .signal_fd = -1};
	uint64_t count, i, half;
	uint32_t size, ring, first = 1;
	uint8_t *memory;
	double start;
	int fd = -1;

	if (argc != 5 && argc != 7)
		fail(1, "usage: ring_peer MODE SIZE COUNT RING [FD WAIT,SIGNAL,FIRST]");
	size = atoi(argv[2]);
	count = strtoull(argv[3], NULL, 10);
	ring = atoi(argv[4]);
	half = PAGE + ring;
	if (argc == 7) {
		fd = atoi(argv[5]);
		if (sscanf(argv[6], "%d,%d,%u", &c.wait_fd, &c.signal_fd, &first) != 3)
			fail(1, "bad events");
	}
	memory = mmap(NULL, 2 * half, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
	if (memory == MAP_FAILED)
		fail(1, "cannot map the rings");
	for (i = 0; i < sizeof(pattern); i++)
		pattern[i] = (i * 2654435761u) >> 13;
	vmbus_br_setup(&c.out, memory + (first ? 0 : half), half);
	vmbus_br_setup(&c.in, argc == 5 ? memory : memory + (first ? half : 0), half);
	c.out.vbr->feature_bits.value = 1;
	c.in.vbr->imask = 1;
	memset(data, 'x', sizeof(data));

	start = now(fd < 0);
	if (!strcmp(argv[1], "batch")) {
		for (i = 0; i < count;) {
			int n = 0;

			while (n < 64 && put(&c, data, size))
				n++;
			for (int k = 0; k < n; k++)
				take(&c, buffer);
			i += n;
		}
	} else if (!strcmp(argv[1], "single")) {
		for (i = 0; i < count; i++) {
			put(&c, data, size);
			take(&c, buffer);
		}
	} else if (!strcmp(argv[1], "send")) {
		for (i = 0; i < count; i++)
			put_waiting(&c, data, size);
		take_waiting(&c, buffer); /* the receiver says that it has them all */
	} else if (!strcmp(argv[1], "receive")) {
		for (i = 0; i < count; i++)
			take_waiting(&c, buffer);
		put_waiting(&c, data, 8);
	} else if (!strcmp(argv[1], "ping") || !strcmp(argv[1], "pong")) {
		for (i = 0; i < count; i++) {
			if (argv[1][1] == 'i')
				put_waiting(&c, data, size);
			take_waiting(&c, buffer);
			if (argv[1][1] == 'o')
				put_waiting(&c, data, size);
		}
	} else if (!strcmp(argv[1], "exchange")) {
		exchange(&c, count);
	} else {
		fail(1, "unknown mode");
	}
	printf("%llu %.9f %lu\n", (unsigned long long)count, now(fd < 0) - start, c.signals);
	return 0;
}

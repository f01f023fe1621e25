// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A channel driven from user space through uio_hv_generic: rings mapped from /dev/uioN, interrupts by read(), and the host
 * signalled by write() or, where the channel has one, through its monitor bit.
 *
 * Layouts: struct hv_ring_buffer, struct vmpacket_descriptor and struct hv_monitor_page of Linux' hyperv.h; which map is
 * what: enum hv_uio_map of uio_hv_generic.c.
 */
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "guest.h"

#define PAGE 4096
#define IN_BAND 6
#define COMPLETION 11
#define WANTS_COMPLETION 1
#define LARGEST_PAYLOAD 65536

struct ring {
	uint32_t *control;	/* write index, read index, interrupt mask, pending send size */
	unsigned char *data;
	uint32_t size;
};

struct descriptor {
	uint16_t type, offset8, length8, flags;
	uint64_t transaction;
};

struct channel {
	int fd;
	struct ring out, in;
	unsigned char *monitor_page;
	int monitor_id;			/* -1: none */
};

static uint32_t load(const uint32_t *index)
{
	return __atomic_load_n(index, __ATOMIC_SEQ_CST);
}

static void store(uint32_t *index, uint32_t value)
{
	__atomic_store_n(index, value, __ATOMIC_SEQ_CST);
}

static uint32_t put(struct ring *ring, uint32_t at, const void *data, uint32_t length)
{
	uint32_t first = length < ring->size - at ? length : ring->size - at;

	memcpy(ring->data + at, data, first);
	memcpy(ring->data, (const char *)data + first, length - first);
	return (at + length) % ring->size;
}

static uint32_t get(const struct ring *ring, uint32_t at, void *data, uint32_t length)
{
	uint32_t first = length < ring->size - at ? length : ring->size - at;

	memcpy(data, ring->data + at, first);
	memcpy((char *)data + first, ring->data, length - first);
	return (at + length) % ring->size;
}

static bool send_packet(struct channel *channel, uint16_t flags, uint64_t transaction, const void *payload,
			uint32_t length)
{
	uint32_t padded = (length + 7) & ~7u, write = load(&channel->out.control[0]), read = load(&channel->out.control[1]);
	uint32_t used = (write + channel->out.size - read) % channel->out.size;
	struct descriptor descriptor = {
		.type = IN_BAND, .offset8 = sizeof(descriptor) / 8, .length8 = (sizeof(descriptor) + padded) / 8,
		.flags = flags, .transaction = transaction,
	};
	uint64_t trailer = (uint64_t)write << 32, zero = 0;

	if (used + sizeof(descriptor) + padded + sizeof(trailer) >= channel->out.size)
		return false;
	write = put(&channel->out, write, &descriptor, sizeof(descriptor));
	write = put(&channel->out, write, payload, length);
	write = put(&channel->out, write, &zero, padded - length);
	write = put(&channel->out, write, &trailer, sizeof(trailer));
	store(&channel->out.control[0], write);
	return true;
}

static int signal_host(struct channel *channel)
{
	int32_t enable = 1;

	if (channel->monitor_id >= 0)	/* pending bits begin after the trigger state, one pair of words for a group */
		__atomic_or_fetch((uint32_t *)(channel->monitor_page + 8 + channel->monitor_id / 32 * 8),
				  1u << channel->monitor_id % 32, __ATOMIC_SEQ_CST);
	return write(channel->fd, &enable, sizeof(enable)) == sizeof(enable) ? 0 : -1;
}

/* The next packet from the host; its payload's padded length, or -1 if there is none. */
static int receive_packet(struct channel *channel, struct descriptor *descriptor, void *payload)
{
	uint32_t read = load(&channel->in.control[1]), length;

	if (read == load(&channel->in.control[0]))
		return -1;
	read = get(&channel->in, read, descriptor, sizeof(*descriptor));
	length = (descriptor->length8 - descriptor->offset8) * 8;
	if (descriptor->length8 < descriptor->offset8 || length > LARGEST_PAYLOAD)
		return -1;
	read = (read + descriptor->offset8 * 8 - sizeof(*descriptor)) % channel->in.size;
	read = get(&channel->in, read, payload, length);
	store(&channel->in.control[1], (read + 8) % channel->in.size);
	return length;
}

static uint64_t read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	char line[64] = "0";

	if (file) {
		if (!fgets(line, sizeof(line), file))
			line[0] = 0;
		fclose(file);
	}
	return strtoull(line, NULL, 0);
}

static int find_monitor(const char *name)
{
	char pattern_text[128];
	glob_t found;
	int id = -1;

	snprintf(pattern_text, sizeof(pattern_text), "/sys/class/uio/%s/device/channels/*/monitor_id", name);
	if (!glob(pattern_text, 0, NULL, &found) && found.gl_pathc)
		id = read_number(found.gl_pathv[0]);
	globfree(&found);
	return id;
}

static int open_channel(struct channel *channel, const char *path)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	char size_path[128];
	unsigned char *rings;
	uint64_t size;

	snprintf(size_path, sizeof(size_path), "/sys/class/uio/%s/maps/map0/size", name);
	size = read_number(size_path);
	channel->fd = open(path, O_RDWR | O_CLOEXEC);
	if (channel->fd < 0 || !size)
		return fail_errno("open %s", path);
	rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, channel->fd, 0);
	channel->monitor_page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, channel->fd, 2 * PAGE);
	if (rings == MAP_FAILED || channel->monitor_page == MAP_FAILED)
		return fail_errno("mmap %s", path);
	channel->out = (struct ring){ (uint32_t *)rings, rings + PAGE, size / 2 - PAGE };
	channel->in = (struct ring){ (uint32_t *)(rings + size / 2), rings + size / 2 + PAGE, size / 2 - PAGE };
	channel->monitor_id = find_monitor(name);
	return 0;
}

/*
 * uio-echo DEVICE COUNT SIZE SEED: send packets to a device that echoes, every other one asking for a completion, and compare
 * what comes back.
 */
int cmd_uio_echo(int argc, char **argv)
{
	uint64_t count = number(argc, argv, 2, 100), size = number(argc, argv, 3, 64), seed = number(argc, argv, 4, 1), i;
	static unsigned char sent[LARGEST_PAYLOAD], received[LARGEST_PAYLOAD];
	struct channel channel = { .fd = -1 };
	double start = now();

	if (argc < 2 || size > LARGEST_PAYLOAD)
		return fail("usage");
	if (open_channel(&channel, argv[1]))
		return 1;
	for (i = 0; i < count; i++) {
		struct descriptor descriptor;
		int length;

		pattern(seed + i, 0, sent, size);
		if (!send_packet(&channel, i % 2 ? WANTS_COMPLETION : 0, i + 1, sent, size) || signal_host(&channel))
			return fail_errno("send %llu", (unsigned long long)i);
		while ((length = receive_packet(&channel, &descriptor, received)) < 0) {
			struct pollfd entry = { .fd = channel.fd, .events = POLLIN };
			uint32_t interrupts;

			if (poll(&entry, 1, 60000) <= 0 || read(channel.fd, &interrupts, sizeof(interrupts)) < 0)
				return fail_errno("no answer to packet %llu", (unsigned long long)i);
		}
		if (descriptor.type != (i % 2 ? COMPLETION : IN_BAND) || (i % 2 && descriptor.transaction != i + 1))
			return fail("packet %llu answered by type %u, transaction %llu", (unsigned long long)i, descriptor.type,
				    (unsigned long long)descriptor.transaction);
		if (length != (int)((size + 7) & ~7u) || memcmp(sent, received, size))
			return fail("packet %llu came back changed", (unsigned long long)i);
	}
	result("packets=%llu round_trip_us=%.0f", (unsigned long long)count, (now() - start) / count * 1e6);
	close(channel.fd);
	return 0;
}

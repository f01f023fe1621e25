// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Block devices, always with O_DIRECT: a verified random load, known contents, and two measurements.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>
#include "guest.h"

#define BLOCK 4096
#define MOST_THREADS 64
#define LONGEST_RUN 64		/* blocks in one request of the verified load */

static int open_device(const char *path, int flags, uint64_t *size)
{
	int fd = open(path, flags | O_DIRECT);

	*size = 0;
	if (fd >= 0 && ioctl(fd, BLKGETSIZE64, size) < 0)
		*size = lseek(fd, 0, SEEK_END);		/* a file */
	return fd;
}

static void *aligned(size_t size)
{
	void *memory = aligned_alloc(BLOCK, size);

	if (!memory)
		abort();
	memset(memory, 0, size);
	return memory;
}

static uint64_t next_random(uint64_t *state)
{
	return mix(*state += 0x9E3779B97F4A7C15ull);
}

/*
 * The verified load. Each thread owns a part of the device and knows for each of its blocks which generation it wrote
 * last; a block's contents follow from seed, block and generation. Generation 0 is written before the clock starts.
 */
struct load {
	pthread_t thread;
	int fd;
	uint64_t seed, first, blocks;
	double until;
	uint32_t *generation;
	uint64_t reads, writes, flushes;
	char error[128];
};

static uint64_t block_seed(const struct load *load, uint64_t block)
{
	return mix(load->seed ^ mix((load->first + block) << 24 ^ load->generation[block]));
}

static bool write_run(struct load *load, char *buffer, uint64_t block, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		pattern(block_seed(load, block + i), 0, buffer + i * BLOCK, BLOCK);
	if (pwrite(load->fd, buffer, count * BLOCK, (load->first + block) * BLOCK) == count * BLOCK)
		return true;
	snprintf(load->error, sizeof(load->error), "write of %u blocks at %llu: %m", count,
		 (unsigned long long)(load->first + block));
	return false;
}

static bool check_run(struct load *load, char *buffer, uint64_t block, unsigned int count)
{
	unsigned int i;

	if (pread(load->fd, buffer, count * BLOCK, (load->first + block) * BLOCK) != count * BLOCK) {
		snprintf(load->error, sizeof(load->error), "read of %u blocks at %llu: %m", count,
			 (unsigned long long)(load->first + block));
		return false;
	}
	for (i = 0; i < count; i++)
		if (!pattern_matches(block_seed(load, block + i), 0, buffer + i * BLOCK, BLOCK)) {
			snprintf(load->error, sizeof(load->error), "wrong data in block %llu, generation %u",
				 (unsigned long long)(load->first + block + i), load->generation[block + i]);
			return false;
		}
	return true;
}

static void *run_load(void *argument)
{
	struct load *load = argument;
	uint64_t random = mix(load->seed ^ load->first), block;
	char *buffer = aligned(LONGEST_RUN * BLOCK);

	for (block = 0; block < load->blocks; block += LONGEST_RUN) {
		unsigned int count = load->blocks - block < LONGEST_RUN ? load->blocks - block : LONGEST_RUN;

		if (!write_run(load, buffer, block, count))
			return NULL;
	}
	while (now() < load->until) {
		uint64_t dice = next_random(&random);
		unsigned int count = 1 + (dice >> 8) % LONGEST_RUN, i;

		if (count > load->blocks)
			count = load->blocks;
		block = next_random(&random) % (load->blocks - count + 1);
		if (dice % 64 == 0) {
			if (fsync(load->fd)) {
				snprintf(load->error, sizeof(load->error), "flush: %m");
				return NULL;
			}
			load->flushes++;
		} else if (dice % 2) {
			for (i = 0; i < count; i++)
				load->generation[block + i]++;
			if (!write_run(load, buffer, block, count))
				return NULL;
			load->writes++;
		} else {
			if (!check_run(load, buffer, block, count))
				return NULL;
			load->reads++;
		}
	}
	for (block = 0; block < load->blocks; block += LONGEST_RUN) {
		unsigned int count = load->blocks - block < LONGEST_RUN ? load->blocks - block : LONGEST_RUN;

		if (!check_run(load, buffer, block, count))
			return NULL;
	}
	free(buffer);
	return NULL;
}

/* disk-load DEVICE SECONDS THREADS SEED [SIZE] [OFFSET]: SIZE bytes (or all) are overwritten; says their digest */
int cmd_disk_load(int argc, char **argv)
{
	uint64_t threads = number(argc, argv, 3, 1), seed = number(argc, argv, 4, 1), size, device_size;
	uint64_t offset = number(argc, argv, 6, 0), reads = 0, writes = 0, flushes = 0, at, i;
	static struct load loads[MOST_THREADS];
	struct sha256 hash;
	char hex[65], *buffer;
	int fd, failed = 0;

	if (argc < 4 || !threads || threads > MOST_THREADS)
		return fail("usage");
	fd = open_device(argv[1], O_RDWR, &device_size);
	if (fd < 0)
		return fail_errno("open %s", argv[1]);
	size = number(argc, argv, 5, device_size - offset);
	if (size / BLOCK / threads == 0 || offset + size > device_size)
		return fail("device of %llu bytes is too small", (unsigned long long)device_size);
	size -= size % (BLOCK * threads);

	for (i = 0; i < threads; i++) {
		loads[i].fd = fd;
		loads[i].seed = seed;
		loads[i].blocks = size / BLOCK / threads;
		loads[i].first = offset / BLOCK + i * loads[i].blocks;
		loads[i].until = now() + number(argc, argv, 2, 5);
		loads[i].generation = calloc(loads[i].blocks, sizeof(uint32_t));
		if (pthread_create(&loads[i].thread, NULL, run_load, &loads[i]))
			return fail("no thread");
	}
	for (i = 0; i < threads; i++) {
		pthread_join(loads[i].thread, NULL);
		reads += loads[i].reads;
		writes += loads[i].writes;
		flushes += loads[i].flushes;
		if (loads[i].error[0])
			failed = fail("%s", loads[i].error);
	}
	if (fsync(fd))
		failed = fail_errno("flush");

	buffer = aligned(1 << 20);
	sha256_start(&hash);
	for (at = offset; at < offset + size;) {
		size_t part = offset + size - at < 1 << 20 ? offset + size - at : 1 << 20;

		if (pread(fd, buffer, part, at) != (ssize_t)part)
			return fail_errno("read at %llu", (unsigned long long)at);
		sha256_add(&hash, buffer, part);
		at += part;
	}
	sha256_finish(&hash, hex);
	close(fd);
	result("reads=%llu writes=%llu flushes=%llu size=%llu sha256=%s", (unsigned long long)reads,
	       (unsigned long long)writes, (unsigned long long)flushes, (unsigned long long)size, hex);
	return failed;
}

/* Known contents, in requests of 1 MiB: disk-fill or disk-verify DEVICE OFFSET SIZE SEED */
static int known_contents(int argc, char **argv, bool fill)
{
	uint64_t offset = number(argc, argv, 2, 0), size = number(argc, argv, 3, 0), seed = number(argc, argv, 4, 1);
	uint64_t device_size, at;
	char *buffer = aligned(1 << 20);
	int fd;

	if (argc < 4 || offset % BLOCK || size % BLOCK)
		return fail("usage");
	fd = open_device(argv[1], fill ? O_RDWR : O_RDONLY, &device_size);
	if (fd < 0)
		return fail_errno("open %s", argv[1]);
	for (at = 0; at < size;) {
		size_t part = size - at < 1 << 20 ? size - at : 1 << 20;

		if (fill)
			pattern(seed, at, buffer, part);
		if ((fill ? pwrite(fd, buffer, part, offset + at) : pread(fd, buffer, part, offset + at)) !=
		    (ssize_t)part)
			return fail_errno("%s at %llu", fill ? "write" : "read", (unsigned long long)(offset + at));
		if (!fill && !pattern_matches(seed, at, buffer, part))
			return fail("wrong data within 1 MiB at %llu", (unsigned long long)(offset + at));
		at += part;
	}
	if (fill && fsync(fd))
		return fail_errno("flush");
	close(fd);
	return 0;
}

int cmd_disk_fill(int argc, char **argv)
{
	return known_contents(argc, argv, true);
}

int cmd_disk_verify(int argc, char **argv)
{
	return known_contents(argc, argv, false);
}

/* iops DEVICE SECONDS THREADS BLOCKSIZE r|w: random requests, one outstanding for each thread */
struct measured {
	pthread_t thread;
	int fd, index;
	bool writing;
	uint64_t device_size, block_size, requests;
	double until;
	bool failed;
};

static void *run_requests(void *argument)
{
	struct measured *measured = argument;
	uint64_t random = mix(measured->index + 1);
	char *buffer = aligned(measured->block_size);

	pattern(random, 0, buffer, measured->block_size);
	while (now() < measured->until) {
		uint64_t block = next_random(&random) % (measured->device_size / measured->block_size);
		off_t at = block * measured->block_size;
		ssize_t done = measured->writing ? pwrite(measured->fd, buffer, measured->block_size, at)
						 : pread(measured->fd, buffer, measured->block_size, at);

		if (done != (ssize_t)measured->block_size) {
			measured->failed = true;
			return NULL;
		}
		measured->requests++;
	}
	free(buffer);
	return NULL;
}

int cmd_iops(int argc, char **argv)
{
	uint64_t threads = number(argc, argv, 3, 1), block_size = number(argc, argv, 4, BLOCK), size, total = 0, i;
	bool writing = argc > 5 && argv[5][0] == 'w', failed = false;
	static struct measured measured[MOST_THREADS];
	double start, took;
	int fd;

	if (argc < 4 || !threads || threads > MOST_THREADS)
		return fail("usage");
	fd = open_device(argv[1], writing ? O_RDWR : O_RDONLY, &size);
	if (fd < 0)
		return fail_errno("open %s", argv[1]);
	if (size < block_size)
		return fail("device of %llu bytes", (unsigned long long)size);
	start = now();
	for (i = 0; i < threads; i++) {
		measured[i] = (struct measured){
			.fd = fd, .index = i, .writing = writing, .device_size = size, .block_size = block_size,
			.until = start + number(argc, argv, 2, 2),
		};
		if (pthread_create(&measured[i].thread, NULL, run_requests, &measured[i]))
			return fail("no thread");
	}
	for (i = 0; i < threads; i++) {
		pthread_join(measured[i].thread, NULL);
		total += measured[i].requests;
		failed |= measured[i].failed;
	}
	took = now() - start;
	close(fd);
	result("iops=%.0f requests=%llu seconds=%.3f", total / took, (unsigned long long)total, took);
	return failed ? fail("a request failed") : 0;
}

/* throughput DEVICE r|w MEBIBYTES [BLOCKSIZE]: sequential, from the start */
int cmd_throughput(int argc, char **argv)
{
	uint64_t size = number(argc, argv, 3, 64) << 20, block_size = number(argc, argv, 4, 1 << 20), device_size, at;
	bool writing = argc > 2 && argv[2][0] == 'w';
	char *buffer = aligned(block_size);
	double start;
	int fd;

	if (argc < 3)
		return fail("usage");
	fd = open_device(argv[1], writing ? O_RDWR : O_RDONLY, &device_size);
	if (fd < 0)
		return fail_errno("open %s", argv[1]);
	if (size > device_size)
		size = device_size;
	pattern(1, 0, buffer, block_size);
	start = now();
	for (at = 0; at + block_size <= size; at += block_size)
		if ((writing ? pwrite(fd, buffer, block_size, at) : pread(fd, buffer, block_size, at)) !=
		    (ssize_t)block_size)
			return fail_errno("%s at %llu", writing ? "write" : "read", (unsigned long long)at);
	result("mb_per_s=%.1f seconds=%.3f", at / 1e6 / (now() - start), now() - start);
	close(fd);
	return 0;
}

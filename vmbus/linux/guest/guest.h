/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmbus-guest-test: one static program that does what tests want done in the guest, because fork and exec cost 20 ms
 * there. Each command is one function; what it found out it adds to its result as key=value pairs.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int command(int argc, char **argv);	/* argv[0] is the command's name; 0 is success */

command cmd_report, cmd_wait_path, cmd_wait_gone, cmd_write, cmd_expect, cmd_cat, cmd_bind, cmd_unbind, cmd_adopt;
command cmd_mount, cmd_umount, cmd_sync, cmd_sha256, cmd_write_file, cmd_read_file;
command cmd_disk_load, cmd_disk_fill, cmd_disk_verify, cmd_iops, cmd_throughput;
command cmd_ifup, cmd_ifdown, cmd_ping, cmd_udp_send, cmd_udp_receive;
command cmd_stream_echo, cmd_stream_send, cmd_stream_receive, cmd_stream_serve, cmd_stream_flood, cmd_stream_drain;
command cmd_input, cmd_uio_echo;

/* Add key=value text to the result line. */
void result(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Add "error=..." to the result line, spaces made underscores, and return 1. fail_errno() appends errno's text. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int fail_errno(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* argv[index] as a number with an optional suffix K, M or G; or the default if it is not there. Exits on nonsense. */
uint64_t number(int argc, char **argv, int index, uint64_t otherwise);

double now(void);		/* seconds, monotonic */

/* The deterministic stream: byte n depends on the seed and n alone. vmbus/inet/pattern.py makes the same bytes. */
void pattern(uint64_t seed, uint64_t offset, void *buffer, size_t length);
bool pattern_matches(uint64_t seed, uint64_t offset, const void *buffer, size_t length);
uint64_t mix(uint64_t value);	/* splitmix64's finalizer */

struct sha256 {
	uint32_t state[8];
	uint64_t length;
	unsigned char block[64];
};

void sha256_start(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *data, size_t length);
void sha256_finish(struct sha256 *hash, char hex[65]);

/* All of it or -1. */
int write_all(int fd, const void *buffer, size_t length);

#endif

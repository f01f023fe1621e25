// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Streams with known contents, over TCP or AF_VSOCK alike. An address is tcp:HOST:PORT or vsock:CID:PORT; to listen,
 * HOST is 0.0.0.0 and CID is any.
 *
 * stream-send writes the pattern, ends its direction, and expects the peer's SHA-256 of it as 64 hexadecimal digits;
 * stream-receive is the other side of that. stream-echo sends the pattern and expects it back; stream-serve echoes.
 * stream-flood and stream-drain are for measuring: they look at nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/wait.h>
#include <unistd.h>
#include "guest.h"

#define CHUNK (256 << 10)

static char buffer[CHUNK];

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_vm vm;
};

static socklen_t parse(const char *text, union address *address)
{
	char host[64];
	unsigned int port;

	memset(address, 0, sizeof(*address));
	if (sscanf(text, "tcp:%63[^:]:%u", host, &port) == 2 && inet_aton(host, &address->in.sin_addr)) {
		address->in.sin_family = AF_INET;
		address->in.sin_port = htons(port);
		return sizeof(address->in);
	}
	if (sscanf(text, "vsock:%63[^:]:%u", host, &port) == 2) {
		address->vm.svm_family = AF_VSOCK;
		address->vm.svm_cid = strcmp(host, "any") ? strtoul(host, NULL, 0) : VMADDR_CID_ANY;
		address->vm.svm_port = port;
		return sizeof(address->vm);
	}
	return 0;
}

static int connect_to(const char *text)
{
	union address address;
	socklen_t length = parse(text, &address);
	int fd;

	if (!length) {
		fail("address %s", text);
		return -1;
	}
	fd = socket(address.any.sa_family, SOCK_STREAM, 0);
	if (fd >= 0 && connect(fd, &address.any, length) == 0)
		return fd;
	fail_errno("connect %s", text);
	if (fd >= 0)
		close(fd);
	return -1;
}

/* stream-send ADDRESS BYTES SEED */
int cmd_stream_send(int argc, char **argv)
{
	uint64_t size = number(argc, argv, 2, 1 << 20), seed = number(argc, argv, 3, 1), at;
	char hex[65], answer[65] = "";
	struct sha256 hash;
	size_t got = 0;
	double start;
	int fd;

	if (argc < 2)
		return fail("usage");
	fd = connect_to(argv[1]);
	if (fd < 0)
		return 1;
	start = now();
	sha256_start(&hash);
	for (at = 0; at < size;) {
		size_t part = size - at < CHUNK ? size - at : CHUNK;

		pattern(seed, at, buffer, part);
		sha256_add(&hash, buffer, part);
		if (write_all(fd, buffer, part))
			return fail_errno("send at %llu", (unsigned long long)at);
		at += part;
	}
	shutdown(fd, SHUT_WR);
	while (got < 64) {
		ssize_t more = read(fd, answer + got, 64 - got);

		if (more <= 0)
			return fail_errno("no digest from the peer");
		got += more;
	}
	close(fd);
	sha256_finish(&hash, hex);
	result("bytes=%llu mbit_per_s=%.1f sha256=%s", (unsigned long long)size, size * 8e-6 / (now() - start), hex);
	return strcmp(hex, answer) ? fail("the peer received %s", answer) : 0;
}

/* stream-receive ADDRESS BYTES SEED: connects, reads to the end, answers with the digest */
int cmd_stream_receive(int argc, char **argv)
{
	uint64_t size = number(argc, argv, 2, 1 << 20), seed = number(argc, argv, 3, 1), at = 0;
	struct sha256 hash;
	ssize_t got;
	char hex[65];
	double start;
	int fd;

	if (argc < 2)
		return fail("usage");
	fd = connect_to(argv[1]);
	if (fd < 0)
		return 1;
	start = now();
	sha256_start(&hash);
	while ((got = read(fd, buffer, CHUNK)) > 0) {
		if (!pattern_matches(seed, at, buffer, got))
			return fail("wrong data within %zd bytes at %llu", got, (unsigned long long)at);
		sha256_add(&hash, buffer, got);
		at += got;
	}
	if (got < 0)
		return fail_errno("receive at %llu", (unsigned long long)at);
	sha256_finish(&hash, hex);
	if (write_all(fd, hex, 64))
		return fail_errno("send the digest");
	close(fd);
	result("bytes=%llu mbit_per_s=%.1f sha256=%s", (unsigned long long)at, at * 8e-6 / (now() - start), hex);
	return at == size ? 0 : fail("%llu bytes expected", (unsigned long long)size);
}

/* stream-echo ADDRESS BYTES SEED: both directions at once, then half-close and the end */
int cmd_stream_echo(int argc, char **argv)
{
	uint64_t size = number(argc, argv, 2, 1 << 20), seed = number(argc, argv, 3, 1), sent = 0, received = 0;
	struct sha256 out, in;
	char sent_hex[65], received_hex[65];
	double start;
	int fd;

	if (argc < 2)
		return fail("usage");
	fd = connect_to(argv[1]);
	if (fd < 0)
		return 1;
	start = now();
	sha256_start(&out);
	sha256_start(&in);
	for (;;) {
		struct pollfd entry = { .fd = fd, .events = POLLIN | (sent < size ? POLLOUT : 0) };

		if (poll(&entry, 1, -1) < 0 && errno != EINTR)
			return fail_errno("poll");
		if (sent < size && entry.revents & POLLOUT) {
			size_t part = size - sent < CHUNK ? size - sent : CHUNK;
			ssize_t written;

			pattern(seed, sent, buffer, part);
			written = send(fd, buffer, part, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (written < 0 && errno != EAGAIN)
				return fail_errno("send at %llu", (unsigned long long)sent);
			if (written > 0) {
				sha256_add(&out, buffer, written);
				sent += written;
			}
			if (sent == size)
				shutdown(fd, SHUT_WR);
		}
		if (entry.revents & (POLLIN | POLLHUP | POLLERR)) {
			ssize_t got = recv(fd, buffer, CHUNK, MSG_DONTWAIT);

			if (got < 0 && errno == EAGAIN)
				continue;
			if (got < 0)
				return fail_errno("receive at %llu", (unsigned long long)received);
			if (!got)
				break;
			if (!pattern_matches(seed, received, buffer, got))
				return fail("wrong data within %zd bytes at %llu", got, (unsigned long long)received);
			sha256_add(&in, buffer, got);
			received += got;
		}
	}
	close(fd);
	sha256_finish(&out, sent_hex);
	sha256_finish(&in, received_hex);
	result("bytes=%llu mbit_per_s=%.1f sent_sha256=%s received_sha256=%s", (unsigned long long)received,
	       (sent + received) * 8e-6 / (now() - start), sent_hex, received_hex);
	return received == size ? 0 : fail("%llu bytes sent", (unsigned long long)sent);
}

/* stream-flood ADDRESS SECONDS: zeros as fast as they go; how many arrived is for the peer to count */
int cmd_stream_flood(int argc, char **argv)
{
	double start = now(), until = start + number(argc, argv, 2, 2);
	uint64_t sent = 0;
	int fd;

	if (argc < 2)
		return fail("usage");
	fd = connect_to(argv[1]);
	if (fd < 0)
		return 1;
	memset(buffer, 0, CHUNK);
	for (; now() < until; sent += CHUNK)
		if (write_all(fd, buffer, CHUNK))
			return fail_errno("send at %llu", (unsigned long long)sent);
	close(fd);
	result("bytes=%llu", (unsigned long long)sent);
	return 0;
}

/* stream-drain ADDRESS: connects and reads to the end, without looking at what comes */
int cmd_stream_drain(int argc, char **argv)
{
	uint64_t received = 0;
	double start;
	ssize_t got;
	int fd;

	if (argc < 2)
		return fail("usage");
	fd = connect_to(argv[1]);
	if (fd < 0)
		return 1;
	start = now();
	while ((got = read(fd, buffer, CHUNK)) > 0)
		received += got;
	if (got < 0)
		return fail_errno("receive at %llu", (unsigned long long)received);
	close(fd);
	result("bytes=%llu mbit_per_s=%.1f", (unsigned long long)received, received * 8e-6 / (now() - start));
	return 0;
}

static int echo(int fd)
{
	ssize_t got;

	while ((got = read(fd, buffer, CHUNK)) > 0)
		if (write_all(fd, buffer, got))
			return 1;
	shutdown(fd, SHUT_WR);
	close(fd);
	return got < 0;
}

/* stream-serve ADDRESS CONNECTIONS: accept so many, echo each in a process of its own, wait for all */
int cmd_stream_serve(int argc, char **argv)
{
	uint64_t count = number(argc, argv, 2, 1), i, failures = 0;
	union address address;
	socklen_t length;
	int fd, one = 1, status;

	if (argc < 2)
		return fail("usage");
	length = parse(argv[1], &address);
	if (!length)
		return fail("address %s", argv[1]);
	fd = socket(address.any.sa_family, SOCK_STREAM, 0);
	if (fd < 0)
		return fail_errno("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &address.any, length) || listen(fd, 128))
		return fail_errno("listen %s", argv[1]);
	printf("LISTENING %s\n", argv[1]);
	fflush(stdout);
	for (i = 0; i < count; i++) {
		int connection = accept(fd, NULL, NULL);

		if (connection < 0)
			return fail_errno("accept");
		if (!fork())
			_exit(echo(connection));
		close(connection);
	}
	close(fd);
	for (i = 0; i < count; i++)
		if (wait(&status) < 0 || status)
			failures++;
	result("connections=%llu", (unsigned long long)count);
	return failures ? fail("%llu connections failed", (unsigned long long)failures) : 0;
}

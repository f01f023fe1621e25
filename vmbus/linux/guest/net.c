// SPDX-License-Identifier: GPL-2.0-or-later
/* Interfaces, ICMP and UDP. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "guest.h"

#define BATCH 64

static void set_address(struct sockaddr *address, uint32_t ip)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = ip };

	memcpy(address, &in, sizeof(in));
}

static int set_flags(int fd, struct ifreq *request, bool up)
{
	if (ioctl(fd, SIOCGIFFLAGS, request) < 0)
		return -1;
	request->ifr_flags = up ? request->ifr_flags | IFF_UP : request->ifr_flags & ~IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, request);
}

/* ifup INTERFACE [ADDRESS/PREFIX] [GATEWAY]: brings the loopback interface up as well */
int cmd_ifup(int argc, char **argv)
{
	struct ifreq request = { .ifr_name = "lo" };
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	unsigned int prefix = 24;
	struct in_addr address;
	char text[32];
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc < 2)
		return fail("usage");
	set_flags(fd, &request, true);
	snprintf(request.ifr_name, IFNAMSIZ, "%s", argv[1]);
	if (set_flags(fd, &request, true))
		return fail_errno("up %s", argv[1]);
	if (argc > 2) {
		if (sscanf(argv[2], "%31[^/]/%u", text, &prefix) < 1 || !inet_aton(text, &address) || prefix > 32)
			return fail("address %s", argv[2]);
		set_address(&request.ifr_addr, address.s_addr);
		if (ioctl(fd, SIOCSIFADDR, &request) < 0)
			return fail_errno("address %s", argv[2]);
		set_address(&request.ifr_netmask, htonl(prefix ? ~0u << (32 - prefix) : 0));
		if (ioctl(fd, SIOCSIFNETMASK, &request) < 0)
			return fail_errno("netmask");
	}
	if (argc > 3) {
		if (!inet_aton(argv[3], &address))
			return fail("gateway %s", argv[3]);
		set_address(&route.rt_gateway, address.s_addr);
		set_address(&route.rt_dst, 0);
		set_address(&route.rt_genmask, 0);
		if (ioctl(fd, SIOCADDRT, &route) < 0)
			return fail_errno("gateway %s", argv[3]);
	}
	close(fd);
	return 0;
}

/* ifdown INTERFACE */
int cmd_ifdown(int argc, char **argv)
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc < 2)
		return fail("usage");
	snprintf(request.ifr_name, IFNAMSIZ, "%s", argv[1]);
	if (set_flags(fd, &request, false))
		return fail_errno("down %s", argv[1]);
	close(fd);
	return 0;
}

static uint16_t checksum(const void *data, size_t length)
{
	const uint16_t *at = data;
	uint32_t sum = 0;

	for (; length > 1; length -= 2)
		sum += *at++;
	if (length)
		sum += *(const uint8_t *)at;
	sum = (sum >> 16) + (sum & 0xffff);
	return ~(sum + (sum >> 16));
}

/* ping ADDRESS COUNT SIZE [INTERVAL_MS] [TIMEOUT_MS]: each payload is checked; a lost one is a failure */
int cmd_ping(int argc, char **argv)
{
	uint64_t count = number(argc, argv, 2, 3), size = number(argc, argv, 3, 56), sequence, received = 0;
	uint64_t interval = number(argc, argv, 4, 0), timeout = number(argc, argv, 5, 5000);
	double best = 1e9, total = 0;
	struct sockaddr_in peer = { .sin_family = AF_INET };
	char packet[65536], answer[65536];
	struct icmphdr *header = (struct icmphdr *)packet;
	int fd;

	if (argc < 2 || !inet_aton(argv[1], &peer.sin_addr) || size > 65000)
		return fail("usage");
	fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	if (fd < 0)
		return fail_errno("socket");
	for (sequence = 1; sequence <= count; sequence++) {
		double sent, took;

		memset(header, 0, sizeof(*header));
		header->type = ICMP_ECHO;
		header->un.echo.id = htons(getpid() & 0xffff);
		header->un.echo.sequence = htons(sequence);
		pattern(sequence, 0, header + 1, size);
		header->checksum = checksum(packet, sizeof(*header) + size);
		sent = now();
		if (sendto(fd, packet, sizeof(*header) + size, 0, (struct sockaddr *)&peer, sizeof(peer)) < 0)
			return fail_errno("send %llu", (unsigned long long)sequence);
		for (;;) {
			struct pollfd entry = { .fd = fd, .events = POLLIN };
			int left = timeout - (now() - sent) * 1000;
			struct iphdr *ip = (struct iphdr *)answer;
			struct icmphdr *reply;
			ssize_t got;

			if (left <= 0 || poll(&entry, 1, left) <= 0)
				break;
			got = recv(fd, answer, sizeof(answer), 0) - ip->ihl * 4 - sizeof(*reply);
			reply = (struct icmphdr *)(answer + ip->ihl * 4);
			if (got < 0 || reply->type != ICMP_ECHOREPLY || reply->un.echo.id != header->un.echo.id ||
			    reply->un.echo.sequence != header->un.echo.sequence)
				continue;
			if (got != (ssize_t)size || !pattern_matches(sequence, 0, reply + 1, size))
				return fail("wrong data in answer %llu", (unsigned long long)sequence);
			received++;
			took = now() - sent;
			total += took;
			best = took < best ? took : best;
			break;
		}
		if (interval)
			usleep(interval * 1000);
	}
	close(fd);
	result("sent=%llu received=%llu", (unsigned long long)count, (unsigned long long)received);
	if (received)
		result("min_us=%.0f avg_us=%.0f", best * 1e6, total / received * 1e6);
	return received == count ? 0 : fail("%llu lost", (unsigned long long)(count - received));
}

static void prepare(struct mmsghdr *messages, struct iovec *parts, char (*buffers)[2048], size_t size)
{
	int i;

	memset(messages, 0, BATCH * sizeof(*messages));
	for (i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ .iov_base = buffers[i], .iov_len = size };
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
}

/* udp-send ADDRESS PORT SECONDS SIZE: as fast as it goes, SIZE payload bytes each */
int cmd_udp_send(int argc, char **argv)
{
	uint64_t size = number(argc, argv, 4, 22), packets = 0;
	double start = now(), until = start + number(argc, argv, 3, 2);
	static char buffers[BATCH][2048];
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = htons(number(argc, argv, 2, 0)) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc < 3 || !inet_aton(argv[1], &peer.sin_addr) || size > sizeof(buffers[0]))
		return fail("usage");
	if (connect(fd, (struct sockaddr *)&peer, sizeof(peer)))
		return fail_errno("connect");
	prepare(messages, parts, buffers, size);
	while (now() < until) {
		int sent = sendmmsg(fd, messages, BATCH, 0);

		if (sent > 0)
			packets += sent;
		else if (errno != ECONNREFUSED && errno != ENOBUFS)
			return fail_errno("send");
	}
	close(fd);
	result("packets=%llu pps=%.0f", (unsigned long long)packets, packets / (now() - start));
	return 0;
}

/* udp-receive PORT SECONDS: counts from the first packet on */
int cmd_udp_receive(int argc, char **argv)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(number(argc, argv, 1, 0)) };
	double limit = now() + 60 + number(argc, argv, 2, 2), start = 0;
	static char buffers[BATCH][2048];
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	uint64_t packets = 0, seconds = number(argc, argv, 2, 2);
	int fd = socket(AF_INET, SOCK_DGRAM, 0), bytes = 4 << 20;

	if (argc < 2)
		return fail("usage");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)))
		return fail_errno("bind");
	printf("LISTENING udp:%s\n", argv[1]);
	fflush(stdout);
	prepare(messages, parts, buffers, sizeof(buffers[0]));
	while (now() < limit && (!start || now() < start + seconds)) {
		struct pollfd entry = { .fd = fd, .events = POLLIN };
		int got = poll(&entry, 1, 100) > 0 ? recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL) : 0;

		if (got > 0) {
			start = start ? start : now();
			packets += got;
		}
	}
	close(fd);
	result("packets=%llu pps=%.0f", (unsigned long long)packets, start ? packets / (now() - start) : 0.0);
	return packets ? 0 : fail("nothing came");
}

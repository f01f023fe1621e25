// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sockets, the interrupt's descriptor, and the process that watches them, on the C library's side of User-Mode Linux.
 *
 * User-Mode Linux takes an interrupt as a SIGIO. A pipe can send one; an eventfd cannot (the host kernel's eventfd has no
 * fasync operation). So the interrupt ends in a pipe: with an eventfd, the watcher below passes each wake-up on to it; or the
 * host writes to the pipe itself. The watcher also notices when the host closes the socket, so that a guest that is idle
 * learns of it, and the socket itself stays blocking and free of signals.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "partition_user.h"

#define MOST_DESCRIPTORS 65	/* memory and one interrupt for each of 64 processors */

int partition_user_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock, err;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);

	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	while (connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno == EINTR)
			continue;
		err = -errno;
		close(sock);
		return err;
	}
	return sock;
}

int partition_user_send(int sock, const void *frame, int length, const int *descriptors, int count)
{
	char control[CMSG_SPACE(sizeof(int) * MOST_DESCRIPTORS)];
	const char *at = frame;

	if (count > MOST_DESCRIPTORS)
		return -E2BIG;

	while (length > 0) {
		struct iovec part = { .iov_base = (void *)at, .iov_len = length };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
		ssize_t sent;

		if (count) {
			struct cmsghdr *header;

			memset(control, 0, sizeof(control));
			message.msg_control = control;
			message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
			header = CMSG_FIRSTHDR(&message);
			header->cmsg_level = SOL_SOCKET;
			header->cmsg_type = SCM_RIGHTS;
			header->cmsg_len = CMSG_LEN(sizeof(int) * count);
			memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
		}
		sent = sendmsg(sock, &message, MSG_NOSIGNAL);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		at += sent;
		length -= sent;
		count = 0;	/* the descriptors went with the first byte */
	}
	return 0;
}

int partition_user_receive(int sock, void *buffer, int length)
{
	char *at = buffer;

	while (length > 0) {
		ssize_t received = recv(sock, at, length, 0);

		if (received < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (!received)
			return -ECONNRESET;
		at += received;
		length -= received;
	}
	return 0;
}

int partition_user_hung_up(int sock)
{
	struct pollfd entry = { .fd = sock, .events = POLLRDHUP };

	return poll(&entry, 1, 0) > 0 && (entry.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

void partition_user_close(int fd)
{
	close(fd);
}

void partition_user_sleep(int milliseconds)
{
	struct timespec left = { .tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000L };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

void partition_user_random(void *buffer, int length)
{
	if (getrandom(buffer, length, 0) != length)
		memset(buffer, 0xa5, length);
}

/*
 * The watcher: a process that shares our memory and descriptors. It must not touch errno, which it shares as well, so
 * it makes no call that is expected to fail, and it blocks all signals.
 */
static char watcher_stack[16384] __attribute__((aligned(16)));
static int watcher_pid = -1;
static int watcher_orders[2] = { -1, -1 };	/* a pipe: the socket to watch from now on */
static int watched_eventfd = -1;
static int interrupt_pipe[2] = { -1, -1 };
static volatile int socket_closed;

static void raise_interrupt(void)
{
	uint64_t one = 1;

	/* A full pipe has interrupts enough in it. */
	if (write(interrupt_pipe[1], &one, sizeof(one)) < 0)
		return;
}

static int watch(void *unused)
{
	struct pollfd entries[] = {
		{ .fd = watcher_orders[0], .events = POLLIN },
		{ .fd = -1, .events = POLLRDHUP },
		{ .fd = watched_eventfd, .events = POLLIN },
	};
	uint64_t count;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		if (poll(entries, 3, -1) < 0)
			continue;
		if (entries[0].revents) {
			int sock;

			if (read(watcher_orders[0], &sock, sizeof(sock)) != sizeof(sock))
				return 0;
			entries[1].fd = sock;
			entries[1].revents = 0;
		}
		if (entries[1].revents) {
			entries[1].fd = -1;
			socket_closed = 1;
			raise_interrupt();
		}
		if (entries[2].revents && read(watched_eventfd, &count, sizeof(count)) > 0)
			raise_interrupt();
	}
}

int partition_user_interrupt(int use_eventfd, int *host_end)
{
	sigset_t all, before;
	int err = 0;

	if (pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(watcher_orders, O_CLOEXEC) < 0)
		return -errno;
	*host_end = interrupt_pipe[1];
	if (use_eventfd) {
		watched_eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (watched_eventfd < 0)
			return -errno;
		*host_end = watched_eventfd;
	}

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	watcher_pid = clone(watch, watcher_stack + sizeof(watcher_stack), CLONE_FILES | CLONE_FS | CLONE_VM, NULL);
	if (watcher_pid < 0)
		err = -errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	return err ? err : interrupt_pipe[0];
}

int partition_user_drain(int fd)
{
	char discarded[512];
	ssize_t got;

	do {
		got = read(fd, discarded, sizeof(discarded));
	} while (got == sizeof(discarded) || (got < 0 && errno == EINTR));
	return __atomic_exchange_n(&socket_closed, 0, __ATOMIC_SEQ_CST);
}

int partition_user_watch(int sock)
{
	return write(watcher_orders[1], &sock, sizeof(sock)) == sizeof(sock) ? 0 : -errno;
}

int partition_user_processors(void)
{
	cpu_set_t set;

	/* The C library's function has the name of one of the kernel's, and would be that one here. */
	memset(&set, 0, sizeof(set));
	return syscall(SYS_sched_getaffinity, 0, sizeof(set), &set) < 0 ? 1 : CPU_COUNT(&set);
}

void partition_user_stop_watching(void)
{
	if (watcher_pid <= 0)
		return;
	kill(watcher_pid, SIGKILL);
	waitpid(watcher_pid, NULL, __WALL);
	watcher_pid = -1;
}

void partition_user_ignore_interrupts(void)
{
	signal(SIGALRM, SIG_IGN);
	signal(SIGIO, SIG_IGN);
}

/*
 * glibc registers a restartable-sequences area for the main thread. User-Mode Linux's stub processes would inherit the
 * registration without the memory behind it, and die at their first preemption. So it is undone before main() runs.
 */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

__attribute__((constructor)) static void unregister_rseq(void)
{
#ifdef SYS_rseq
	enum { RSEQ_UNREGISTER = 1, RSEQ_SIGNATURE = 0x53053053 };
	static const unsigned int sizes[] = { 32, 64, 128 };	/* glibc registers 32 bytes, or what the kernel asks for */
	unsigned int i;
	char *area;

	if (!&__rseq_offset || !__rseq_size)
		return;
	asm("mov %%fs:0, %0" : "=r" (area));	/* the thread pointer */
	area += __rseq_offset;
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (!syscall(SYS_rseq, area, sizes[i], RSEQ_UNREGISTER, RSEQ_SIGNATURE))
			return;
#endif
}

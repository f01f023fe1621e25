// SPDX-License-Identifier: GPL-2.0-or-later
/* What the kernel shows under /sys and /dev: VMBus devices and their drivers, waiting, reading, writing; input events. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/input.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "guest.h"

#define DEVICES "/sys/bus/vmbus/devices"

/* The file's first line, or "" if there is none. */
static const char *first_line(const char *path)
{
	static char line[4096];
	int fd = open(path, O_RDONLY);
	ssize_t got = -1;

	if (fd >= 0) {
		got = read(fd, line, sizeof(line) - 1);
		close(fd);
	}
	line[got < 0 ? 0 : got] = 0;
	line[strcspn(line, "\n")] = 0;
	return line;
}

static void list(const char *what, const char *directory)
{
	DIR *dir = opendir(directory);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			printf("%s %s\n", what, entry->d_name);
	closedir(dir);
}

/* report: lines VMBUS INSTANCE CLASS DRIVER, then BLOCK NAME and NET NAME */
int cmd_report(int argc, char **argv)
{
	DIR *dir = opendir(DEVICES);
	struct dirent *entry;
	int count = 0;

	while (dir && (entry = readdir(dir))) {
		char path[PATH_MAX], target[PATH_MAX] = "";
		const char *driver;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), DEVICES "/%s/driver", entry->d_name);
		if (readlink(path, target, sizeof(target) - 1) < 0)
			target[0] = 0;
		driver = strrchr(target, '/');
		snprintf(path, sizeof(path), DEVICES "/%s/class_id", entry->d_name);
		printf("VMBUS %s %s %s\n", entry->d_name, first_line(path), driver ? driver + 1 : "-");
		count++;
	}
	if (dir)
		closedir(dir);
	list("BLOCK", "/sys/block");
	list("NET", "/sys/class/net");
	fflush(stdout);
	result("devices=%d", count);
	return 0;
}

static int wait_for(const char *path, bool present, double seconds)
{
	double start = now();

	while ((access(path, F_OK) == 0) != present) {
		if (now() - start > seconds)
			return fail("%s %s after %.0f s", path, present ? "missing" : "present", seconds);
		usleep(5000);
	}
	result("seconds=%.3f", now() - start);
	return 0;
}

/* wait-path PATH [SECONDS] */
int cmd_wait_path(int argc, char **argv)
{
	return argc < 2 ? fail("usage") : wait_for(argv[1], true, number(argc, argv, 2, 10));
}

/* wait-gone PATH [SECONDS] */
int cmd_wait_gone(int argc, char **argv)
{
	return argc < 2 ? fail("usage") : wait_for(argv[1], false, number(argc, argv, 2, 10));
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return fail_errno("open %s", path);
	if (write(fd, text, strlen(text)) < 0) {
		fail_errno("write %s", path);
		close(fd);
		return 1;
	}
	close(fd);
	return 0;
}

/* write PATH TEXT: into a file of /sys or /proc */
int cmd_write(int argc, char **argv)
{
	return argc < 3 ? fail("usage") : write_text(argv[1], argv[2]);
}

/* expect PATH TEXT: the file's first line is TEXT */
int cmd_expect(int argc, char **argv)
{
	const char *line;

	if (argc < 3)
		return fail("usage");
	line = first_line(argv[1]);
	return strcmp(line, argv[2]) ? fail("%s is %s", argv[1], line) : 0;
}

/* cat PATH */
int cmd_cat(int argc, char **argv)
{
	char text[4096];
	ssize_t got;
	int fd;

	if (argc < 2)
		return fail("usage");
	fd = open(argv[1], O_RDONLY);
	if (fd < 0)
		return fail_errno("open %s", argv[1]);
	while ((got = read(fd, text, sizeof(text))) > 0)
		write_all(1, text, got);
	close(fd);
	return got < 0 ? fail_errno("read %s", argv[1]) : 0;
}

/* bind DRIVER INSTANCE, unbind DRIVER INSTANCE: names as "report" prints them */
static int driver_file(int argc, char **argv, const char *file)
{
	char path[PATH_MAX];

	if (argc < 3)
		return fail("usage");
	snprintf(path, sizeof(path), "/sys/bus/vmbus/drivers/%s/%s", argv[1], file);
	return write_text(path, argv[2]);
}

int cmd_bind(int argc, char **argv)
{
	return driver_file(argc, argv, "bind");
}

int cmd_unbind(int argc, char **argv)
{
	return driver_file(argc, argv, "unbind");
}

/* adopt DRIVER CLASS: let a driver (uio_hv_generic) serve devices of a class that it does not know by itself */
int cmd_adopt(int argc, char **argv)
{
	return driver_file(argc, argv, "new_id");
}

/* input DEVICE COUNT [SECONDS]: lines INPUT TYPE CODE VALUE, synchronization events left out */
int cmd_input(int argc, char **argv)
{
	double until = now() + number(argc, argv, 3, 10);
	uint64_t wanted = number(argc, argv, 2, 1), seen = 0;
	struct pollfd entry = { .events = POLLIN };
	struct input_event event;

	if (argc < 3)
		return fail("usage");
	entry.fd = open(argv[1], O_RDONLY | O_NONBLOCK);
	if (entry.fd < 0)
		return fail_errno("open %s", argv[1]);
	printf("INPUT ready\n");
	fflush(stdout);
	while (seen < wanted && now() < until) {
		poll(&entry, 1, 100);
		while (seen < wanted && read(entry.fd, &event, sizeof(event)) == sizeof(event))
			if (event.type != EV_SYN) {
				printf("INPUT %d %d %d\n", event.type, event.code, event.value);
				seen++;
			}
		fflush(stdout);
	}
	close(entry.fd);
	result("events=%llu", (unsigned long long)seen);
	return seen < wanted ? fail("too few events") : 0;
}

// SPDX-License-Identifier: GPL-2.0-or-later
/* Mounting, and files with known contents. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "guest.h"

static char buffer[1 << 20];

int write_all(int fd, const void *data, size_t length)
{
	const char *at = data;

	while (length) {
		ssize_t written = write(fd, at, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return -1;
		at += written;
		length -= written;
	}
	return 0;
}

/* mount DEVICE DIRECTORY [TYPE] [ro] */
int cmd_mount(int argc, char **argv)
{
	const char *type = argc > 3 ? argv[3] : "ext4";
	bool read_only = argc > 4 && !strcmp(argv[4], "ro");

	if (argc < 3)
		return fail("usage");
	mkdir(argv[2], 0755);
	if (mount(argv[1], argv[2], type, read_only ? MS_RDONLY : 0, NULL))
		return fail_errno("mount %s", argv[1]);
	return 0;
}

/* umount DIRECTORY */
int cmd_umount(int argc, char **argv)
{
	if (argc < 2)
		return fail("usage");
	return umount(argv[1]) ? fail_errno("umount %s", argv[1]) : 0;
}

int cmd_sync(int argc, char **argv)
{
	sync();
	return 0;
}

/* sha256 FILE [EXPECTED] */
int cmd_sha256(int argc, char **argv)
{
	struct sha256 hash;
	uint64_t size = 0;
	ssize_t got;
	char hex[65];
	int fd;

	if (argc < 2)
		return fail("usage");
	fd = open(argv[1], O_RDONLY);
	if (fd < 0)
		return fail_errno("open %s", argv[1]);
	sha256_start(&hash);
	while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
		sha256_add(&hash, buffer, got);
		size += got;
	}
	if (got < 0)
		return fail_errno("read %s", argv[1]);
	close(fd);
	sha256_finish(&hash, hex);
	result("size=%llu sha256=%s", (unsigned long long)size, hex);
	if (argc > 2 && strcmp(hex, argv[2]))
		return fail("expected %s", argv[2]);
	return 0;
}

/* write-file PATH SIZE SEED */
int cmd_write_file(int argc, char **argv)
{
	uint64_t size = number(argc, argv, 2, 0), seed = number(argc, argv, 3, 1), at;
	struct sha256 hash;
	char hex[65];
	int fd;

	if (argc < 3)
		return fail("usage");
	fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		return fail_errno("open %s", argv[1]);
	sha256_start(&hash);
	for (at = 0; at < size;) {
		size_t part = size - at < sizeof(buffer) ? size - at : sizeof(buffer);

		pattern(seed, at, buffer, part);
		sha256_add(&hash, buffer, part);
		if (write_all(fd, buffer, part))
			return fail_errno("write %s at %llu", argv[1], (unsigned long long)at);
		at += part;
	}
	if (fsync(fd) || close(fd))
		return fail_errno("fsync %s", argv[1]);
	sha256_finish(&hash, hex);
	result("size=%llu sha256=%s", (unsigned long long)size, hex);
	return 0;
}

/* read-file PATH SIZE SEED: as write-file wrote it */
int cmd_read_file(int argc, char **argv)
{
	uint64_t size = number(argc, argv, 2, 0), seed = number(argc, argv, 3, 1), at = 0;
	ssize_t got;
	int fd;

	if (argc < 3)
		return fail("usage");
	fd = open(argv[1], O_RDONLY);
	if (fd < 0)
		return fail_errno("open %s", argv[1]);
	while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
		if (!pattern_matches(seed, at, buffer, got))
			return fail("wrong data within %zd bytes at %llu", got, (unsigned long long)at);
		at += got;
	}
	if (got < 0)
		return fail_errno("read %s", argv[1]);
	close(fd);
	if (at != size)
		return fail("size %llu", (unsigned long long)at);
	return 0;
}

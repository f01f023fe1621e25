// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The program's frame: its commands by name, and what it does as /init. docs/linux-guest.md describes the script.
 *
 * As /init it mounts /proc, /sys, /dev and /tmp, runs the commands of /etc/vmbus-script line by line, prints one line
 * "TEST name ok|fail key=value..." for each, ends with "VMBUS-EXIT status", and powers off with that exit status.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "guest.h"

#define SCRIPT "/etc/vmbus-script"
#define SHELL "/bin/sh"
#define MOST_WORDS 64
#define MOST_JOBS 64

static const struct {
	const char *name;
	command *run;
} commands[] = {
	{ "report", cmd_report }, { "wait-path", cmd_wait_path }, { "wait-gone", cmd_wait_gone },
	{ "write", cmd_write }, { "expect", cmd_expect }, { "cat", cmd_cat },
	{ "bind", cmd_bind }, { "unbind", cmd_unbind }, { "adopt", cmd_adopt }, { "input", cmd_input },
	{ "uio-echo", cmd_uio_echo },
	{ "mount", cmd_mount }, { "umount", cmd_umount }, { "sync", cmd_sync },
	{ "sha256", cmd_sha256 }, { "write-file", cmd_write_file }, { "read-file", cmd_read_file },
	{ "disk-load", cmd_disk_load }, { "disk-fill", cmd_disk_fill }, { "disk-verify", cmd_disk_verify },
	{ "iops", cmd_iops }, { "throughput", cmd_throughput },
	{ "ifup", cmd_ifup }, { "ifdown", cmd_ifdown }, { "ping", cmd_ping },
	{ "udp-send", cmd_udp_send }, { "udp-receive", cmd_udp_receive },
	{ "stream-echo", cmd_stream_echo }, { "stream-send", cmd_stream_send },
	{ "stream-receive", cmd_stream_receive }, { "stream-serve", cmd_stream_serve },
	{ "stream-flood", cmd_stream_flood }, { "stream-drain", cmd_stream_drain },
};

static char details[2048];

static void append(const char *format, va_list arguments)
{
	size_t used = strlen(details);

	if (used + 2 < sizeof(details)) {
		details[used++] = ' ';
		vsnprintf(details + used, sizeof(details) - used, format, arguments);
	}
}

void result(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	append(format, arguments);
	va_end(arguments);
}

static int add_error(const char *format, va_list arguments, int error)
{
	char text[512];
	size_t used = snprintf(text, sizeof(text), "error=");

	used += vsnprintf(text + used, sizeof(text) - used, format, arguments);
	if (error && used < sizeof(text))
		snprintf(text + used, sizeof(text) - used, ": %s", strerror(error));
	for (char *at = text; *at; at++)
		if (*at == ' ' || *at == '\n')
			*at = '_';
	result("%s", text);
	return 1;
}

int fail(const char *format, ...)
{
	va_list arguments;
	int status;

	va_start(arguments, format);
	status = add_error(format, arguments, 0);
	va_end(arguments);
	return status;
}

int fail_errno(const char *format, ...)
{
	va_list arguments;
	int error = errno, status;

	va_start(arguments, format);
	status = add_error(format, arguments, error);
	va_end(arguments);
	return status;
}

uint64_t number(int argc, char **argv, int index, uint64_t otherwise)
{
	uint64_t value;
	char *end;

	if (index >= argc)
		return otherwise;
	value = strtoull(argv[index], &end, 0);
	switch (*end) {
	case 'G':
		value <<= 10;
		__attribute__((fallthrough));
	case 'M':
		value <<= 10;
		__attribute__((fallthrough));
	case 'K':
		value <<= 10;
		end++;
	}
	if (*end || end == argv[index]) {
		printf("%s: %s is not a number\n", argv[0], argv[index]);
		exit(2);
	}
	return value;
}

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static command *find(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, name))
			return commands[i].run;
	return NULL;
}

/* Run one command and print its result line with a single write, so that kernel messages do not get into it. */
static int run(const char *label, int argc, char **argv)
{
	command *found = find(argv[0]);
	char line[4096];
	int status, length;

	details[0] = 0;
	status = found ? found(argc, argv) : fail("unknown command %s", argv[0]);
	fflush(stdout);
	length = snprintf(line, sizeof(line), "TEST %s %s%s\n", label, status ? "fail" : "ok", details);
	write_all(1, line, length);
	return status;
}

/* As /init */

static void mount_basics(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mkdir("/tmp", 01777);
	mkdir("/mnt", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mkdir("/dev/pts", 0755);
	mount("devpts", "/dev/pts", "devpts", 0, NULL);
	mkdir("/dev/shm", 01777);
	mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL);
	mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
}

static void open_console(const char *path)
{
	int fd = open(path, O_RDWR);

	if (fd < 0)
		return;
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(fd, 2);
	if (fd > 2)
		close(fd);
}

static int shell(const char *line)
{
	if (line) {
		execl(SHELL, "sh", "-c", line, NULL);
		return 127;
	}
	/* /dev/console cannot be a controlling terminal, but the terminal behind it can: ^C works then. */
	setsid();
	open_console("/dev/tty0");
	execl(SHELL, "-sh", NULL);
	return 127;
}

static int power_off(int status)
{
	char text[32];
	int fd = open("/proc/exitcode", O_WRONLY);

	snprintf(text, sizeof(text), "%d", status);
	if (fd >= 0) {
		write_all(fd, text, strlen(text));
		close(fd);
	}
	printf("VMBUS-EXIT %d\n", status);
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	return status;
}

static int finished(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static pid_t jobs[MOST_JOBS];
static int job_count;

static int wait_for_jobs(void)
{
	int status = 0;

	while (job_count)
		status |= finished(jobs[--job_count]);
	return status;
}

/*
 * One line: [@LABEL] COMMAND ARGUMENT..., or "sh TEXT" for the shell, "shell" for an interactive one, "background LINE",
 * "wait" for all background lines, "sleep SECONDS", "say TEXT", "exit STATUS", "panic".
 */
static int run_line(char *line)
{
	char *words[MOST_WORDS], label[128] = "", *rest, *save;
	int count = 0, status;
	pid_t pid;

	line += strspn(line, " \t");
	if (*line == '@') {
		sscanf(line + 1, "%127s", label);
		line += 1 + strlen(label);
		line += strspn(line, " \t");
	}
	if (!*line || *line == '#')
		return 0;

	rest = line + strcspn(line, " \t");
	rest += strspn(rest, " \t");
	if (!strncmp(line, "background ", 11)) {
		if (job_count == MOST_JOBS)
			return 1;
		pid = fork();
		if (!pid)
			_exit(run_line(rest));
		jobs[job_count++] = pid;
		return pid < 0;
	}
	if (!strcmp(line, "wait"))
		return wait_for_jobs();
	if (!strncmp(line, "sleep ", 6)) {
		usleep(atof(rest) * 1e6);
		return 0;
	}
	if (!strncmp(line, "say ", 4)) {
		printf("%s\n", rest);
		fflush(stdout);
		return 0;
	}
	if (!strncmp(line, "exit ", 5))
		exit(power_off(atoi(rest)));
	if (!strcmp(line, "panic"))
		exit(1);	/* the end of init is one */

	pid = fork();
	if (pid)
		return pid < 0 ? 1 : finished(pid);
	if (!strcmp(line, "shell"))
		_exit(shell(NULL));
	if (!strncmp(line, "sh ", 3)) {
		pid = fork();
		if (!pid)
			_exit(shell(rest));
		status = pid < 0 ? 1 : finished(pid);
		printf("TEST %s %s status=%d\n", *label ? label : "sh", status ? "fail" : "ok", status);
		fflush(stdout);
		_exit(status);
	}
	for (char *word = strtok_r(line, " \t", &save); word && count < MOST_WORDS; word = strtok_r(NULL, " \t", &save))
		words[count++] = word;
	_exit(run(*label ? label : words[0], count, words));
}

static int run_as_init(void)
{
	FILE *script;
	char *line = NULL;
	size_t room = 0;
	int status = 0;

	mount_basics();
	open_console("/dev/console");
	setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
	setenv("HOME", "/", 1);
	setenv("TERM", "linux", 0);
	script = fopen(SCRIPT, "re");
	if (!script) {
		char only[] = "shell";

		status = run_line(only);
	}
	while (script && getline(&line, &room, script) > 0) {
		line[strcspn(line, "\n")] = 0;
		if (run_line(line))
			status = 1;
	}
	if (wait_for_jobs())
		status = 1;
	return power_off(status);
}

int main(int argc, char **argv)
{
	if (getpid() == 1)
		return run_as_init();
	if (argc < 2) {
		printf("usage: %s COMMAND ARGUMENT...\ncommands:", argv[0]);
		for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
			printf(" %s", commands[i].name);
		printf("\n");
		return 2;
	}
	return run(argv[1], argc - 1, argv + 1);
}

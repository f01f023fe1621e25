/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The half of the partition connection that talks to the machine's C library. Included from kernel code and from
 * partition_user.c, so plain C types only. Functions return 0 or a positive result, or a negative errno.
 */
#ifndef _HV_UM_PARTITION_USER_H
#define _HV_UM_PARTITION_USER_H

/* A connected stream socket to the host listening at @path. */
int partition_user_connect(const char *path);

/* Send all @length bytes, with @count descriptors beside the first of them. -EPIPE: the host is gone. */
int partition_user_send(int sock, const void *frame, int length, const int *descriptors, int count);

/* Receive exactly @length bytes. -ECONNRESET: the host is gone. */
int partition_user_receive(int sock, void *buffer, int length);

/* Whether the host's end of @sock is closed. */
int partition_user_hung_up(int sock);

void partition_user_close(int fd);
void partition_user_sleep(int milliseconds);
void partition_user_random(void *buffer, int length);

/*
 * The interrupt. *@host_end goes to the host, which raises the interrupt by writing 8 bytes to it; the returned
 * descriptor becomes readable then, and SIGIO can be asked for it. With @use_eventfd the host's end is an eventfd.
 */
int partition_user_interrupt(int use_eventfd, int *host_end);

/* Empty the interrupt's descriptor. True if the watcher saw a socket being closed since the last call. */
int partition_user_drain(int fd);

/* Watch @sock instead of the one before: when the host closes it, the interrupt is raised. */
int partition_user_watch(int sock);

/* The processors of the machine that this process may run on. */
int partition_user_processors(void);

/* End the watching process. */
void partition_user_stop_watching(void);

/* The timer and the descriptors interrupt no more. */
void partition_user_ignore_interrupts(void);

#endif

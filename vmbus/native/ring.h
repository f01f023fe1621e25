/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The memory of a ring as RingPort sees it.
 *
 * Each word of shared memory is loaded once, atomically, into a local variable, and only that is used: the peer may
 * change the memory between any two instructions. Nothing here calls back into Python code while a buffer is used.
 */
#ifndef VMBUS_RING_H
#define VMBUS_RING_H

#include "native.h"

/* vmbus/wire/ring.py declares these formats. */
enum { WRITE_INDEX, READ_INDEX, INTERRUPT_MASK, PENDING_SEND_SIZE, FEATURE_BITS = 16 }; /* words of the control page */
enum { CONTROL_SIZE = 68 };

typedef struct {
    PyObject_HEAD
    Py_buffer control; /* buf is NULL when nothing is held */
    Py_buffer data;
    uint32_t size;  /* of the ring */
    uint32_t reach; /* bytes of data to be seen: twice the size where the ring is mapped twice, back to back */
    NativeState *state;
} RingPort;

/* Parse the position and the number that each method begins with; -1 with an exception set if they are not there, or the
 * port was released. */
int port_arguments(RingPort *self, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted, uint32_t *position,
                   uint32_t *number);

/* A tuple of two new references, which are taken over; NULL with an exception set, also when one of them is NULL. */
PyObject *pair_of(PyObject *first, PyObject *second);

PyObject *port_read(PyObject *object, PyObject *const *args, Py_ssize_t given);  /* reading.c */
PyObject *port_write(PyObject *object, PyObject *const *args, Py_ssize_t given); /* writing.c */

static inline uint32_t *port_word(const RingPort *self, int word)
{
    return (uint32_t *)self->control.buf + word;
}

static inline char *port_data(const RingPort *self)
{
    return self->data.buf;
}

static inline uint32_t advanced(const RingPort *self, uint32_t position, uint32_t bytes)
{
    position += bytes; /* at most twice 2**30 */
    return position >= self->size ? position - self->size : position;
}

/* From one position of the ring on to another; the whole ring is 0. */
static inline uint32_t distance(const RingPort *self, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : self->size - from + to;
}

/* One aligned word of a packet, loaded once. */
static inline uint64_t ring_load(const RingPort *self, uint32_t position)
{
    return __atomic_load_n((const uint64_t *)(port_data(self) + position), __ATOMIC_RELAXED);
}

#endif

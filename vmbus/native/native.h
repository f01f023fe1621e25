/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the files of vmbus._native share: the Python they are written for, and what each of them adds to the module.
 *
 * Only CPython's limited API is used (3.11), so one binary serves every later version. layout.h adds what it lacks.
 */
#ifndef VMBUS_NATIVE_H
#define VMBUS_NATIVE_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include "layout.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "VMBus is little-endian"
#endif

extern PyType_Spec atomic_view_spec; /* atomics.c */
extern PyType_Spec ring_packet_spec; /* packet.c */
extern PyType_Spec ring_port_spec;   /* port.c, with the methods of reading.c and writing.c */

typedef struct RingPacket RingPacket;

/* What one module object knows. Its types hold the module, and objects their type, so they may point here. */
typedef struct {
    Layout layout;
    PyTypeObject *packet_type;
    PyObject *no_bytes; /* b"" */
    RingPacket *spare;  /* a list of packets that were dropped, for the next batch; see packet.h */
    uint32_t spare_count;
} NativeState;

/* Give the memory of the spare packets back. */
void packets_discard_spare(NativeState *state);

#define METHOD(PREFIX, NAME) {#NAME, (PyCFunction)(void (*)(void))PREFIX##_##NAME, METH_FASTCALL, NULL}

/* End an object of a type that lives on the heap: such an object holds its type. */
static inline void free_object(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

#endif

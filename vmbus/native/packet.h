/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A packet that was taken out of a ring, and where its memory comes from.
 *
 * Numbers stay C numbers until somebody looks at them, and the garbage collector need not know: making and dropping one
 * of these costs a fraction of what a named tuple costs. Packets come and go in batches, so the memory of those that
 * were dropped is kept for the next batch.
 */
#ifndef VMBUS_PACKET_H
#define VMBUS_PACKET_H

#include "native.h"

/* vmbus/wire/ring.py declares these formats. */
enum { DESCRIPTOR_SIZE = 16, FOOTER_SIZE = 8 };
enum { IN_BAND = 6, TRANSFER_PAGES = 7, GPA_DIRECT = 9, COMPLETION = 11 };
enum { COMPLETION_REQUESTED = 1 };

enum { MAX_SPARE_PACKETS = 128 }; /* two batches: one is often still in use when the next is read */

struct RingPacket {
    PyObject_HEAD
    NativeState *home;
    uint16_t packet_type, flags;
    uint32_t offset;
    uint64_t transaction_id;
    PyObject *extension, *payload; /* bytes; NULL only until the packet is whole */
    RingPacket *next_spare;        /* only in the list of spare packets */
};

/* A packet without contents, or NULL with an exception set. */
static inline RingPacket *packet_new(NativeState *state)
{
    RingPacket *packet = state->spare;
    if (packet != NULL) {
        state->spare = packet->next_spare;
        state->spare_count--;
        Py_SET_REFCNT((PyObject *)packet, 1);
        Py_INCREF((PyObject *)state->packet_type);
    } else {
        packet = PyObject_Malloc(sizeof *packet);
        if (packet == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        packet->home = state;
        PyObject_Init((PyObject *)packet, state->packet_type);
    }
    packet->extension = packet->payload = NULL;
    return packet;
}

#endif

/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * RingPort.read: packets out of a ring, copied and checked.
 */
#include "packet.h"
#include "ring.h"

enum { MAX_BATCH = 64 }; /* vmbus/ring/packet.py says why */

/* A copy of bytes of the ring, which may go around its end. */
static inline PyObject *bytes_out(const RingPort *self, uint32_t position, uint32_t length)
{
    const char *data = port_data(self);
    if (length <= self->reach - position)
        return PyBytes_FromStringAndSize(data + position, (Py_ssize_t)length);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (bytes != NULL) {
        char *target = PyBytes_AsString(bytes);
        uint32_t first = self->size - position;
        memcpy(target, data + position, first);
        memcpy(target + first, data, length - first);
    }
    return bytes;
}

/* A packet's descriptor, copied: from here on the peer may do what it likes with the original. */
typedef struct {
    uint32_t packet_type, flags;
    uint32_t start, length; /* of the payload and of the packet without its footer, in bytes */
    uint64_t transaction_id;
} Descriptor;

static inline Descriptor descriptor_at(const RingPort *self, uint32_t position)
{
    uint64_t head = ring_load(self, position);
    return (Descriptor){
        .packet_type = head & 0xFFFF,
        .start = (head >> 16 & 0xFFFF) * 8,
        .length = (head >> 32 & 0xFFFF) * 8,
        .flags = (uint32_t)(head >> 48),
        .transaction_id = ring_load(self, advanced(self, position, 8)),
    };
}

static inline int is_sound(const Descriptor *descriptor, uint32_t available)
{
    if (descriptor->start < DESCRIPTOR_SIZE || descriptor->length < descriptor->start ||
        descriptor->length + FOOTER_SIZE > available || (descriptor->flags & ~(uint32_t)COMPLETION_REQUESTED) != 0)
        return 0;
    switch (descriptor->packet_type) {
    case IN_BAND:
    case COMPLETION:
        return 1;
    case TRANSFER_PAGES:
    case GPA_DIRECT:
        return descriptor->start > DESCRIPTOR_SIZE; /* their ranges are in the extension */
    default:
        return 0;
    }
}

/* Copy a packet out, as far as its descriptor, which is sound, says that it goes; NULL with an exception set. */
static inline RingPacket *packet_at(const RingPort *self, uint32_t position, const Descriptor *descriptor)
{
    RingPacket *packet = packet_new(self->state);
    if (packet == NULL)
        return NULL;
    packet->packet_type = (uint16_t)descriptor->packet_type;
    packet->flags = (uint16_t)descriptor->flags;
    packet->offset = position;
    packet->transaction_id = descriptor->transaction_id;
    uint32_t start = descriptor->start;
    packet->extension = start == DESCRIPTOR_SIZE
                            ? Py_NewRef(self->state->no_bytes)
                            : bytes_out(self, advanced(self, position, DESCRIPTOR_SIZE), start - DESCRIPTOR_SIZE);
    packet->payload = bytes_out(self, advanced(self, position, start), descriptor->length - start);
    if (packet->extension != NULL && packet->payload != NULL)
        return packet;
    Py_DECREF(packet);
    return NULL;
}

/* Whether a GPA-direct packet, which is a copy, names no ranges at all. */
static inline int is_without_ranges(const RingPort *self, const RingPacket *packet)
{
    uint32_t range_count;
    memcpy(&range_count, bytes_start(&self->state->layout, packet->extension) + 4, sizeof range_count);
    return range_count == 0;
}

/* Take one packet of the ring. Return its bytes in the ring; 0 when it is odd; -1 with an exception set. */
static inline int64_t take_packet(const RingPort *self, uint32_t position, uint32_t available, PyObject **taken)
{
    if (available < DESCRIPTOR_SIZE)
        return 0;
    Descriptor descriptor = descriptor_at(self, position);
    if (!is_sound(&descriptor, available))
        return 0;
    RingPacket *packet = packet_at(self, position, &descriptor);
    if (packet == NULL)
        return -1;
    if (descriptor.packet_type == GPA_DIRECT && is_without_ranges(self, packet)) {
        Py_DECREF(packet);
        return 0;
    }
    *taken = (PyObject *)packet;
    return (int64_t)descriptor.length + FOOTER_SIZE;
}

/* read(position, limit) -> (list of packets, new position), or None when the first packet, or an index, is odd */
PyObject *port_read(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t position, limit;
    if (port_arguments(self, args, given, 2, &position, &limit) < 0)
        return NULL;
    uint32_t write_index = __atomic_load_n(port_word(self, WRITE_INDEX), __ATOMIC_ACQUIRE);
    if (write_index >= self->size || write_index % 8 != 0)
        Py_RETURN_NONE;
    uint32_t available = distance(self, position, write_index);
    PyObject *packets[MAX_BATCH];
    uint32_t count = 0;
    int64_t taken = 0;
    while (available != 0 && count < limit && count < MAX_BATCH) {
        taken = take_packet(self, position, available, &packets[count]);
        if (taken <= 0)
            break;
        count++;
        available -= (uint32_t)taken;
        position = advanced(self, position, (uint32_t)taken);
    }
    if (taken == 0 && count == 0 && available != 0 && limit != 0)
        Py_RETURN_NONE;
    PyObject *list = taken < 0 ? NULL : PyList_New((Py_ssize_t)count);
    if (list == NULL) {
        while (count > 0)
            Py_DECREF(packets[--count]);
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++)
        PyList_SetItem(list, (Py_ssize_t)i, packets[i]);
    return pair_of(list, PyLong_FromUnsignedLong(position));
}

/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * RingPort.write: packets into a ring.
 */
#include "packet.h"
#include "ring.h"

enum { LONGEST = 0xFFFF * 8 }; /* the descriptor has 16 bits for a packet's length, in units of 8 bytes */

/* A number argument; the packets of a batch mostly have the same types and flags, as the same objects. */
typedef struct {
    PyObject *object;
    uint64_t value;
} Number;

/* A bytes-like argument; only types whose buffers run no Python code. */
typedef struct {
    const char *start;
    Py_ssize_t length;
    Py_buffer buffer; /* obj is NULL for bytes, which need none */
} Bytes;

/* The fields of a vmbus.ring.packet.OutgoingPacket. */
typedef struct {
    Number packet_type, flags, transaction_id;
    Bytes extension, payload;
} Fields;

static inline int number_of(PyObject *object, uint64_t limit, Number *number)
{
    if (object == number->object)
        return 1;
    number->object = NULL;
    if (!Py_IS_TYPE(object, &PyLong_Type) && !PyLong_Check(object)) /* the second asks a function */
        return 0;
    int overflow;
    long value = PyLong_AsLongAndOverflow(object, &overflow); /* the quicker one, for most of the range */
    number->value = value >= 0 && overflow == 0 ? (uint64_t)value : PyLong_AsUnsignedLongLong(object);
    if (number->value == UINT64_MAX && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    number->object = number->value <= limit ? object : NULL;
    return number->object != NULL;
}

static int bytes_of_buffer(PyObject *object, Bytes *bytes)
{
    if (!Py_IS_TYPE(object, &PyByteArray_Type) && !PyMemoryView_Check(object))
        return 0;
    if (PyObject_GetBuffer(object, &bytes->buffer, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        bytes->buffer.obj = NULL;
        return 0;
    }
    bytes->start = bytes->buffer.buf;
    bytes->length = bytes->buffer.len;
    if (bytes->buffer.itemsize == 1)
        return 1;
    PyBuffer_Release(&bytes->buffer);
    return 0;
}

static inline int bytes_of(const Layout *layout, PyObject *object, Bytes *bytes)
{
    bytes->buffer.obj = NULL;
    if (!Py_IS_TYPE(object, &PyBytes_Type))
        return bytes_of_buffer(object, bytes);
    bytes->start = bytes_start(layout, object);
    bytes->length = Py_SIZE(object);
    return 1;
}

static inline void bytes_done(Bytes *bytes)
{
    if (bytes->buffer.obj != NULL)
        PyBuffer_Release(&bytes->buffer);
}

/* Take a packet apart, until fields_done; 0 when it is odd. Numbers that are the same as the last packet's are kept. */
static inline int fields_of(const Layout *layout, PyObject *packet, Fields *fields)
{
    if ((!Py_IS_TYPE(packet, &PyTuple_Type) && !PyTuple_Check(packet)) || Py_SIZE(packet) != 5 ||
        !number_of(tuple_item(layout, packet, 0), 0xFFFF, &fields->packet_type) ||
        !number_of(tuple_item(layout, packet, 1), 0xFFFF, &fields->flags) ||
        !number_of(tuple_item(layout, packet, 2), UINT64_MAX, &fields->transaction_id) ||
        !bytes_of(layout, tuple_item(layout, packet, 3), &fields->extension))
        return 0;
    if (bytes_of(layout, tuple_item(layout, packet, 4), &fields->payload))
        return 1;
    bytes_done(&fields->extension);
    return 0;
}

static inline void fields_done(Fields *fields)
{
    bytes_done(&fields->payload);
    bytes_done(&fields->extension);
}

/* The bytes that a packet takes up in the ring, or 0 when it can never be sent. */
static inline uint32_t size_in_ring(const Fields *fields)
{
    if (fields->extension.length % 8 != 0 || fields->extension.length > LONGEST || fields->payload.length > LONGEST)
        return 0;
    uint32_t length = DESCRIPTOR_SIZE + (uint32_t)fields->extension.length + (uint32_t)fields->payload.length;
    length = (length + 7) & ~(uint32_t)7;
    return length <= LONGEST ? length + FOOTER_SIZE : 0;
}

/* The bytes that may be written at position. The last 8 never are: a full ring must not look like an empty one. */
static inline uint32_t room(const RingPort *self, uint32_t position)
{
    uint32_t read_index = __atomic_load_n(port_word(self, READ_INDEX), __ATOMIC_ACQUIRE);
    if (read_index >= self->size || read_index % 8 != 0)
        return 0; /* the reference says so */
    return self->size - distance(self, read_index, position) - 8;
}

/* Form a packet of taken bytes for a position of the ring, at an address that may be there. */
static inline void form_packet(char *at, uint32_t position, const Fields *fields, uint32_t taken)
{
    uint32_t length = taken - FOOTER_SIZE, start = DESCRIPTOR_SIZE + (uint32_t)fields->extension.length;
    uint64_t padding = 0, footer = (uint64_t)position << 32;
    uint64_t head = fields->packet_type.value | (uint64_t)(start / 8) << 16 | (uint64_t)(length / 8) << 32 |
                    fields->flags.value << 48;
    uint64_t descriptor[2] = {head, fields->transaction_id.value};
    memcpy(at + length - sizeof padding, &padding, sizeof padding); /* the payload overwrites most of it */
    memcpy(at, descriptor, sizeof descriptor);
    if (fields->extension.length != 0)
        memcpy(at + DESCRIPTOR_SIZE, fields->extension.start, (size_t)fields->extension.length);
    memcpy(at + start, fields->payload.start, (size_t)fields->payload.length);
    memcpy(at + length, &footer, sizeof footer);
}

/* Form a packet elsewhere and copy it in around the ring's end; 0 when there is no memory. */
static int put_around_end(const RingPort *self, uint32_t position, const Fields *fields, uint32_t taken)
{
    char *packet = PyMem_Malloc(taken);
    if (packet == NULL)
        return 0;
    form_packet(packet, position, fields, taken);
    uint32_t first = self->size - position;
    memcpy(port_data(self) + position, packet, first);
    memcpy(port_data(self), packet + first, taken - first);
    PyMem_Free(packet);
    return 1;
}

/* Put a packet into the ring, where there is room for it. */
static inline int put_packet(const RingPort *self, uint32_t position, const Fields *fields, uint32_t taken)
{
    if (taken > self->reach - position)
        return put_around_end(self, position, fields, taken);
    form_packet(port_data(self) + position, position, fields, taken);
    return 1;
}

/* write(position, limit, packets) -> (number written, new position); none is begun after limit bytes of the ring */
PyObject *port_write(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t position, limit;
    if (port_arguments(self, args, given, 3, &position, &limit) < 0)
        return NULL;
    PyObject *packets = args[2];
    int is_list = PyList_Check(packets);
    Py_ssize_t total = is_list ? PyList_Size(packets) : PyTuple_Check(packets) ? PyTuple_Size(packets) : 0;
    uint32_t available = room(self, position), used = 0;
    Fields fields = {0};
    Py_ssize_t written = 0;
    while (written < total && (used < limit || written == 0)) {
        PyObject *packet = is_list ? PyList_GetItem(packets, written) : PyTuple_GetItem(packets, written);
        if (!fields_of(&self->state->layout, packet, &fields))
            break;
        uint32_t taken = size_in_ring(&fields);
        if (taken > available)
            available = room(self, position); /* the peer may have read on since */
        int is_put = taken != 0 && taken <= available && put_packet(self, position, &fields, taken);
        fields_done(&fields);
        if (!is_put)
            break;
        written++;
        used += taken; /* at most the limit and one packet, or the ring */
        available -= taken;
        position = advanced(self, position, taken);
    }
    return pair_of(PyLong_FromSsize_t(written), PyLong_FromUnsignedLong(position));
}

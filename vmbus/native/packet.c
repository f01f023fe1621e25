/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * RingPacket to look at: it has the attributes of the named tuple vmbus.ring.packet.RingPacket, iterates and compares
 * like it.
 */
#include "packet.h"
#include <stddef.h>
#include <structmember.h>

static void packet_dealloc(PyObject *object)
{
    RingPacket *self = (RingPacket *)object;
    PyTypeObject *type = Py_TYPE(object);
    NativeState *state = self->home;
    Py_XDECREF(self->extension);
    Py_XDECREF(self->payload);
    if (state->spare_count < MAX_SPARE_PACKETS) {
        self->next_spare = state->spare;
        state->spare = self;
        state->spare_count++;
    } else {
        PyObject_Free(self); /* the type has no subtypes and no garbage collection */
    }
    Py_DECREF(type); /* last: the state goes with the module, which the type holds */
}

void packets_discard_spare(NativeState *state)
{
    while (state->spare != NULL) {
        RingPacket *packet = state->spare;
        state->spare = packet->next_spare;
        PyObject_Free(packet);
    }
    state->spare_count = 0;
}

static PyObject *packet_as_tuple(PyObject *object)
{
    RingPacket *self = (RingPacket *)object;
    return Py_BuildValue("IIKOOI", (unsigned)self->packet_type, (unsigned)self->flags,
                         (unsigned long long)self->transaction_id, self->extension, self->payload,
                         (unsigned)self->offset);
}

static PyObject *packet_iter(PyObject *object)
{
    PyObject *fields = packet_as_tuple(object);
    PyObject *iterator = fields != NULL ? PyObject_GetIter(fields) : NULL;
    Py_XDECREF(fields);
    return iterator;
}

static PyObject *packet_compare(PyObject *object, PyObject *other, int operation)
{
    PyObject *fields = packet_as_tuple(object);
    PyObject *others = Py_IS_TYPE(other, Py_TYPE(object)) ? packet_as_tuple(other) : Py_NewRef(other);
    PyObject *result = fields != NULL && others != NULL ? PyObject_RichCompare(fields, others, operation) : NULL;
    Py_XDECREF(fields);
    Py_XDECREF(others);
    return result;
}

static Py_hash_t packet_hash(PyObject *object)
{
    PyObject *fields = packet_as_tuple(object);
    Py_hash_t hash = fields != NULL ? PyObject_Hash(fields) : -1;
    Py_XDECREF(fields);
    return hash;
}

static PyObject *packet_repr(PyObject *object)
{
    RingPacket *self = (RingPacket *)object;
    return PyUnicode_FromFormat(
        "RingPacket(packet_type=%u, flags=%u, transaction_id=%llu, extension=%R, payload=%R, offset=%u)",
        (unsigned)self->packet_type, (unsigned)self->flags, (unsigned long long)self->transaction_id, self->extension,
        self->payload, (unsigned)self->offset);
}

static PyObject *packet_wants_completion(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((RingPacket *)object)->flags & COMPLETION_REQUESTED);
}

static PyObject *packet_ring_size(PyObject *object, void *unused)
{
    (void)unused;
    RingPacket *self = (RingPacket *)object;
    return PyLong_FromSsize_t(DESCRIPTOR_SIZE + PyBytes_Size(self->extension) + PyBytes_Size(self->payload) +
                              FOOTER_SIZE);
}

static PyGetSetDef packet_getters[] = {
    {"wants_completion", packet_wants_completion, NULL, NULL, NULL},
    {"ring_size", packet_ring_size, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef packet_members[] = {
    {"packet_type", T_USHORT, offsetof(RingPacket, packet_type), READONLY, NULL},
    {"flags", T_USHORT, offsetof(RingPacket, flags), READONLY, NULL},
    {"transaction_id", T_ULONGLONG, offsetof(RingPacket, transaction_id), READONLY, NULL},
    {"extension", T_OBJECT_EX, offsetof(RingPacket, extension), READONLY, NULL},
    {"payload", T_OBJECT_EX, offsetof(RingPacket, payload), READONLY, NULL},
    {"offset", T_UINT, offsetof(RingPacket, offset), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot packet_slots[] = {
    {Py_tp_doc, "A packet that was taken out of a ring; see vmbus.ring.packet.RingPacket"},
    {Py_tp_dealloc, packet_dealloc},
    {Py_tp_members, packet_members},
    {Py_tp_getset, packet_getters},
    {Py_tp_iter, packet_iter},
    {Py_tp_richcompare, packet_compare},
    {Py_tp_hash, packet_hash},
    {Py_tp_repr, packet_repr},
    {0, NULL},
};

PyType_Spec ring_packet_spec = {"vmbus._native.RingPacket", sizeof(RingPacket), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, packet_slots};

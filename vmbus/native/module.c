/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * vmbus._native: what Python cannot do, or not fast enough, on memory that is shared with another partition.
 *
 *   AtomicView   atomic words; the same as vmbus.atomics.CtypesAtomicView      atomics.c
 *   full_fence   a full memory fence                                           here
 *   RingPort     packets in and out of a ring, in batches;                     port.c, reading.c, writing.c
 *                the same as vmbus.ring.reference.ReferencePort
 *   RingPacket   what RingPort reads; the same as vmbus.ring.packet.RingPacket packet.c
 */
#include "native.h"

static PyObject *native_full_fence(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyMethodDef native_methods[] = {
    {"full_fence", native_full_fence, METH_NOARGS, "Let no load or store pass this point in either direction."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}

static int native_exec(PyObject *module)
{
    NativeState *state = PyModule_GetState(module);
    if (layout_find(&state->layout) < 0)
        return -1;
    state->no_bytes = PyBytes_FromStringAndSize(NULL, 0);
    state->packet_type = add_type(module, &ring_packet_spec);
    PyTypeObject *view_type = add_type(module, &atomic_view_spec), *port_type = add_type(module, &ring_port_spec);
    int added = state->no_bytes != NULL && state->packet_type != NULL && view_type != NULL && port_type != NULL;
    Py_XDECREF((PyObject *)view_type);
    Py_XDECREF((PyObject *)port_type);
    return added ? 0 : -1;
}

static int native_traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(((NativeState *)PyModule_GetState(module))->packet_type);
    return 0;
}

static int native_clear(PyObject *module)
{
    Py_CLEAR(((NativeState *)PyModule_GetState(module))->packet_type);
    return 0;
}

static void native_free(void *module)
{
    NativeState *state = PyModule_GetState(module);
    native_clear(module);
    Py_CLEAR(state->no_bytes);
    packets_discard_spare(state);
}

static PyModuleDef_Slot native_slots[] = {{Py_mod_exec, native_exec}, {0, NULL}};

static PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT, "vmbus._native", "Shared memory, fast and in order.", sizeof(NativeState),
    native_methods, native_slots, native_traverse, native_clear, native_free,
};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}

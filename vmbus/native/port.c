/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * RingPort: packets in and out of a ring, in batches; the same as vmbus.ring.reference.ReferencePort.
 *
 * It takes plain cases only. Whatever looks odd - a bad index, a bad descriptor, an argument of an unusual type - it
 * leaves alone and says so (read: None; write: fewer packets), and the reference in Python looks at it again and
 * decides. So there is one place that judges a hostile peer, and none of its errors are made here.
 *
 * Here: its life, when to signal, and watching. reading.c and writing.c have the packets.
 */
#include "ring.h"
#include <time.h>

enum { MAX_RING_SIZE = 1 << 30, FEATURE_PENDING_SEND_SIZE = 1 };

static PyObject *port_release(PyObject *object, PyObject *unused)
{
    (void)unused;
    RingPort *self = (RingPort *)object;
    if (self->control.buf != NULL)
        PyBuffer_Release(&self->control);
    self->control.buf = NULL;
    if (self->data.buf != NULL)
        PyBuffer_Release(&self->data);
    self->data.buf = NULL;
    Py_RETURN_NONE;
}

static void port_dealloc(PyObject *object)
{
    Py_DECREF(port_release(object, NULL));
    free_object(object);
}

static PyObject *port_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"control", "data", "size", NULL};
    PyObject *control, *data;
    unsigned long size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOk:RingPort", names, &control, &data, &size))
        return NULL;
    RingPort *self = (RingPort *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(control, &self->control, PyBUF_WRITABLE) < 0) {
        self->control.buf = NULL;
        goto fail;
    }
    if (PyObject_GetBuffer(data, &self->data, PyBUF_WRITABLE) < 0) {
        self->data.buf = NULL;
        goto fail;
    }
    if (size == 0 || size > MAX_RING_SIZE || size % 8 != 0 || self->data.len < (Py_ssize_t)size ||
        self->control.len < CONTROL_SIZE || (uintptr_t)self->control.buf % 4 != 0 ||
        (uintptr_t)self->data.buf % 8 != 0) {
        PyErr_SetString(PyExc_ValueError, "a ring of that size cannot lie in that memory");
        goto fail;
    }
    self->size = (uint32_t)size;
    self->reach = self->data.len >= 2 * (Py_ssize_t)size ? 2 * self->size : self->size;
    self->state = PyType_GetModuleState(type);
    if (self->state == NULL)
        goto fail;
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

int port_arguments(RingPort *self, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted, uint32_t *position,
                   uint32_t *number)
{
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, %zd given", wanted, given);
        return -1;
    }
    if (self->control.buf == NULL) {
        PyErr_SetString(PyExc_ValueError, "this ring port has been released");
        return -1;
    }
    unsigned long first = PyLong_AsUnsignedLong(args[0]);
    if (first == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    unsigned long second = PyLong_AsUnsignedLong(args[1]);
    if (second == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    if (first >= self->size || first % 8 != 0 || second > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "no such position in the ring");
        return -1;
    }
    *position = (uint32_t)first;
    *number = (uint32_t)second;
    return 0;
}

PyObject *pair_of(PyObject *first, PyObject *second)
{
    PyObject *pair = first != NULL && second != NULL ? PyTuple_New(2) : NULL;
    if (pair == NULL) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        return NULL;
    }
    PyTuple_SetItem(pair, 0, first);
    PyTuple_SetItem(pair, 1, second);
    return pair;
}

/* commit_write(old, new) -> whether the receiver wants a signal; as Linux's hv_signal_on_write */
static PyObject *port_commit_write(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t old, new;
    if (port_arguments(self, args, given, 2, &old, &new) < 0)
        return NULL;
    __atomic_store_n(port_word(self, WRITE_INDEX), new, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(port_word(self, INTERRUPT_MASK), __ATOMIC_ACQUIRE) != 0)
        Py_RETURN_FALSE;
    return PyBool_FromLong(__atomic_load_n(port_word(self, READ_INDEX), __ATOMIC_RELAXED) == old);
}

/* commit_read(old, new) -> whether a sender that waits for room wants a signal; as Linux's hv_pkt_iter_close */
static PyObject *port_commit_read(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t old, new;
    if (port_arguments(self, args, given, 2, &old, &new) < 0)
        return NULL;
    __atomic_store_n(port_word(self, READ_INDEX), new, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint32_t pending = __atomic_load_n(port_word(self, PENDING_SEND_SIZE), __ATOMIC_ACQUIRE);
    if (pending == 0 || !(__atomic_load_n(port_word(self, FEATURE_BITS), __ATOMIC_RELAXED) & FEATURE_PENDING_SEND_SIZE))
        Py_RETURN_FALSE;
    uint32_t write_index = __atomic_load_n(port_word(self, WRITE_INDEX), __ATOMIC_ACQUIRE);
    if (write_index >= self->size)
        Py_RETURN_FALSE;
    uint32_t before = self->size - distance(self, old, write_index);
    uint32_t after = self->size - distance(self, new, write_index);
    return PyBool_FromLong(before <= pending && pending < after);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* spin(position, nanoseconds) -> whether the write index differs from position before the time is over */
static PyObject *port_spin(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t position, nanoseconds;
    if (port_arguments(self, args, given, 2, &position, &nanoseconds) < 0)
        return NULL;
    const uint32_t *write_index = port_word(self, WRITE_INDEX);
    int moved = __atomic_load_n(write_index, __ATOMIC_ACQUIRE) != position;
    if (!moved && nanoseconds != 0) {
        PyThreadState *thread = PyEval_SaveThread(); /* workers may run; only this thread releases the port */
        uint64_t end = now() + nanoseconds;
        do {
            for (int i = 0; i < 16 && !moved; i++) {
                pause_briefly();
                moved = __atomic_load_n(write_index, __ATOMIC_ACQUIRE) != position;
            }
        } while (!moved && now() < end);
        PyEval_RestoreThread(thread);
    }
    return PyBool_FromLong(moved);
}

static PyMethodDef port_methods[] = {
    METHOD(port, read),
    METHOD(port, write),
    METHOD(port, commit_read),
    METHOD(port, commit_write),
    METHOD(port, spin),
    {"release", port_release, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot port_slots[] = {
    {Py_tp_doc, "RingPort(control, data, size): see vmbus.ring.reference.ReferencePort"},
    {Py_tp_new, port_new},
    {Py_tp_dealloc, port_dealloc},
    {Py_tp_methods, port_methods},
    {0, NULL},
};

PyType_Spec ring_port_spec = {"vmbus._native.RingPort", sizeof(RingPort), 0, Py_TPFLAGS_DEFAULT, port_slots};

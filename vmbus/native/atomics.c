/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * AtomicView: atomic words of a buffer by byte offset, the same as vmbus.atomics.CtypesAtomicView.
 */
#include "native.h"

typedef struct {
    PyObject_HEAD
    Py_buffer buffer; /* buffer.buf is NULL when nothing is held */
} AtomicView;

static PyObject *atomic_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"view", NULL};
    PyObject *target;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:AtomicView", names, &target))
        return NULL;
    AtomicView *self = (AtomicView *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(target, &self->buffer, PyBUF_WRITABLE) < 0) {
        self->buffer.buf = NULL;
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *atomic_release(PyObject *object, PyObject *unused)
{
    (void)unused;
    AtomicView *self = (AtomicView *)object;
    if (self->buffer.buf != NULL)
        PyBuffer_Release(&self->buffer);
    self->buffer.buf = NULL;
    Py_RETURN_NONE;
}

static void atomic_dealloc(PyObject *object)
{
    AtomicView *self = (AtomicView *)object;
    if (self->buffer.buf != NULL)
        PyBuffer_Release(&self->buffer);
    free_object(object);
}

/* Parse (offset) or (offset, operand) and return the word's address, or NULL with an exception set. */
static void *atomic_word(PyObject *object, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted, Py_ssize_t width,
                         uint64_t *operand)
{
    AtomicView *self = (AtomicView *)object;
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, %zd given", wanted, given);
        return NULL;
    }
    Py_ssize_t offset = PyLong_AsSsize_t(args[0]);
    if (offset == -1 && PyErr_Occurred())
        return NULL;
    *operand = wanted == 2 ? PyLong_AsUnsignedLongLongMask(args[1]) : 0;
    if (*operand == UINT64_MAX && PyErr_Occurred())
        return NULL;
    if (self->buffer.buf == NULL) {
        PyErr_SetString(PyExc_ValueError, "this atomic view has been released");
        return NULL;
    }
    char *word = (char *)self->buffer.buf + offset;
    if (offset < 0 || offset > self->buffer.len - width || (uintptr_t)word % (size_t)width != 0) {
        PyErr_Format(PyExc_ValueError, "no aligned %zd-bit word at offset %zd of %zd bytes", 8 * width, offset,
                     self->buffer.len);
        return NULL;
    }
    return word;
}

/* A method with so many operands beside the offset; RESULT makes use of word and operand. */
#define ATOMIC_METHOD(NAME, BITS, OPERANDS, RESULT)                                                                    \
    static PyObject *atomic_##NAME##BITS(PyObject *self, PyObject *const *args, Py_ssize_t given)                      \
    {                                                                                                                  \
        uint64_t operand;                                                                                              \
        uint##BITS##_t *word = atomic_word(self, args, given, 1 + (OPERANDS), (BITS) / 8, &operand);                   \
        return word != NULL ? (RESULT) : NULL;                                                                         \
    }

#define ATOMIC_METHODS(BITS)                                                                                           \
    ATOMIC_METHOD(load, BITS, 0, PyLong_FromUnsignedLongLong(__atomic_load_n(word, __ATOMIC_ACQUIRE)))                 \
    ATOMIC_METHOD(store, BITS, 1,                                                                                      \
                  (__atomic_store_n(word, (uint##BITS##_t)operand, __ATOMIC_RELEASE), Py_NewRef(Py_None)))             \
    ATOMIC_METHOD(exchange, BITS, 1,                                                                                   \
                  PyLong_FromUnsignedLongLong(__atomic_exchange_n(word, (uint##BITS##_t)operand, __ATOMIC_SEQ_CST)))   \
    ATOMIC_METHOD(fetch_or, BITS, 1,                                                                                   \
                  PyLong_FromUnsignedLongLong(__atomic_fetch_or(word, (uint##BITS##_t)operand, __ATOMIC_SEQ_CST)))     \
    ATOMIC_METHOD(fetch_and, BITS, 1,                                                                                  \
                  PyLong_FromUnsignedLongLong(__atomic_fetch_and(word, (uint##BITS##_t)operand, __ATOMIC_SEQ_CST)))

ATOMIC_METHODS(32)
ATOMIC_METHODS(64)

static PyMethodDef atomic_methods[] = {
    METHOD(atomic, load32), METHOD(atomic, load64),
    METHOD(atomic, store32), METHOD(atomic, store64),
    METHOD(atomic, exchange32), METHOD(atomic, exchange64),
    METHOD(atomic, fetch_or32), METHOD(atomic, fetch_or64),
    METHOD(atomic, fetch_and32), METHOD(atomic, fetch_and64),
    {"release", atomic_release, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot atomic_slots[] = {
    {Py_tp_doc, "AtomicView(buffer): atomic operations on shared memory; see vmbus.atomics.CtypesAtomicView"},
    {Py_tp_new, atomic_new},
    {Py_tp_dealloc, atomic_dealloc},
    {Py_tp_methods, atomic_methods},
    {0, NULL},
};

PyType_Spec atomic_view_spec = {"vmbus._native.AtomicView", sizeof(AtomicView), 0, Py_TPFLAGS_DEFAULT, atomic_slots};

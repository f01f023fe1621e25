/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * vmbus._native: what Python cannot do, or not fast enough, on memory that is shared with another partition.
 *
 *   AtomicView   atomic words; the same as vmbus.atomics.CtypesAtomicView
 *   full_fence   a full memory fence
 *   RingPort     packets in and out of a ring, in batches; the same as vmbus.ring.reference.ReferencePort
 *   RingPacket   what RingPort reads; the same as vmbus.ring.packet.RingPacket
 *
 * RingPort takes plain cases only. Whatever looks odd - a bad index, a bad descriptor, an argument of an unusual type - it
 * leaves alone and says so (read: None; write: fewer packets), and the reference in Python looks at it again and
 * decides. So there is one place that judges a hostile peer, and none of its errors are made here.
 *
 * Each word of shared memory is loaded once, atomically, into a local variable, and only that is used: the peer may
 * change the memory between any two instructions. Nothing here calls back into Python code while a buffer is used.
 *
 * Only CPython's limited API is used (3.11), so one binary serves every later version.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "VMBus is little-endian"
#endif

/* vmbus/wire/ring.py declares these formats. */
enum { WRITE_INDEX, READ_INDEX, INTERRUPT_MASK, PENDING_SEND_SIZE, FEATURE_BITS = 16 }; /* words of the control page */
enum { DESCRIPTOR_SIZE = 16, FOOTER_SIZE = 8, MAX_BATCH = 64, MAX_RING_SIZE = 1 << 30 };
enum { IN_BAND = 6, TRANSFER_PAGES = 7, GPA_DIRECT = 9, COMPLETION = 11 };
enum { COMPLETION_REQUESTED = 1, FEATURE_PENDING_SEND_SIZE = 1 };
enum { CONTROL_SIZE = 68, LONGEST = 0xFFFF * 8 };

/* Objects of both types live on the heap and hold their type. */
static void free_object(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* ---- AtomicView ---- */

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

/* Parse (offset, value...) and return the word's address, or NULL with an exception set. */
static void *atomic_word(PyObject *object, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted, Py_ssize_t width,
                         uint64_t *values)
{
    AtomicView *self = (AtomicView *)object;
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, %zd given", wanted, given);
        return NULL;
    }
    Py_ssize_t offset = PyLong_AsSsize_t(args[0]);
    if (offset == -1 && PyErr_Occurred())
        return NULL;
    for (Py_ssize_t i = 1; i < wanted; i++) {
        values[i - 1] = PyLong_AsUnsignedLongLongMask(args[i]);
        if (values[i - 1] == (uint64_t)-1 && PyErr_Occurred())
            return NULL;
    }
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

#define ATOMIC_METHOD(NAME, BITS, OPERANDS, EXPRESSION)                                                                \
    static PyObject *atomic_##NAME##BITS(PyObject *self, PyObject *const *args, Py_ssize_t given)                      \
    {                                                                                                                  \
        uint64_t value[2] = {0, 0};                                                                                    \
        uint##BITS##_t *word = atomic_word(self, args, given, 1 + (OPERANDS), (BITS) / 8, value);                      \
        if (word == NULL)                                                                                              \
            return NULL;                                                                                               \
        uint##BITS##_t operand = (uint##BITS##_t)value[0];                                                             \
        return PyLong_FromUnsignedLongLong(EXPRESSION);                                                                \
    }

#define ATOMIC_METHODS(BITS)                                                                                           \
    ATOMIC_METHOD(load, BITS, 0, ((void)operand, __atomic_load_n(word, __ATOMIC_ACQUIRE)))                             \
    ATOMIC_METHOD(exchange, BITS, 1, __atomic_exchange_n(word, operand, __ATOMIC_SEQ_CST))                             \
    ATOMIC_METHOD(fetch_or, BITS, 1, __atomic_fetch_or(word, operand, __ATOMIC_SEQ_CST))                               \
    ATOMIC_METHOD(fetch_and, BITS, 1, __atomic_fetch_and(word, operand, __ATOMIC_SEQ_CST))                             \
    ATOMIC_METHOD(compare_exchange, BITS, 2,                                                                           \
                  (__atomic_compare_exchange_n(word, &operand, (uint##BITS##_t)value[1], 0, __ATOMIC_SEQ_CST,          \
                                               __ATOMIC_SEQ_CST),                                                      \
                   operand))                                                                                           \
    static PyObject *atomic_store##BITS(PyObject *self, PyObject *const *args, Py_ssize_t given)                       \
    {                                                                                                                  \
        uint64_t value[2] = {0, 0};                                                                                    \
        uint##BITS##_t *word = atomic_word(self, args, given, 2, (BITS) / 8, value);                                   \
        if (word == NULL)                                                                                              \
            return NULL;                                                                                               \
        __atomic_store_n(word, (uint##BITS##_t)value[0], __ATOMIC_RELEASE);                                            \
        Py_RETURN_NONE;                                                                                                \
    }

ATOMIC_METHODS(32)
ATOMIC_METHODS(64)

#define METHOD(PREFIX, NAME) {#NAME, (PyCFunction)(void (*)(void))PREFIX##_##NAME, METH_FASTCALL, NULL}

static PyMethodDef atomic_methods[] = {
    METHOD(atomic, load32), METHOD(atomic, store32), METHOD(atomic, exchange32), METHOD(atomic, fetch_or32),
    METHOD(atomic, fetch_and32), METHOD(atomic, compare_exchange32),
    METHOD(atomic, load64), METHOD(atomic, store64), METHOD(atomic, exchange64), METHOD(atomic, fetch_or64),
    METHOD(atomic, fetch_and64), METHOD(atomic, compare_exchange64),
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

static PyType_Spec atomic_spec = {"vmbus._native.AtomicView", sizeof(AtomicView), 0, Py_TPFLAGS_DEFAULT, atomic_slots};

/* ---- Packet ---- */

/*
 * Numbers stay C numbers until somebody looks at them, and the garbage collector need not know: making and dropping one
 * of these costs a third of what a named tuple costs. It has that tuple's attributes, iterates and compares like it.
 */
typedef struct {
    PyObject_HEAD
    uint16_t packet_type, flags;
    uint32_t offset;
    uint64_t transaction_id;
    PyObject *extension, *payload;
} Packet;

static void packet_dealloc(PyObject *object)
{
    Packet *self = (Packet *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->extension);
    Py_XDECREF(self->payload);
    PyObject_Free(self); /* the type has no subtypes and no garbage collection */
    Py_DECREF(type);
}

static PyObject *packet_as_tuple(PyObject *object)
{
    Packet *self = (Packet *)object;
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
    Packet *self = (Packet *)object;
    return PyUnicode_FromFormat(
        "RingPacket(packet_type=%u, flags=%u, transaction_id=%llu, extension=%R, payload=%R, offset=%u)",
        (unsigned)self->packet_type, (unsigned)self->flags, (unsigned long long)self->transaction_id, self->extension,
        self->payload, (unsigned)self->offset);
}

static PyObject *packet_wants_completion(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((Packet *)object)->flags & COMPLETION_REQUESTED);
}

static PyObject *packet_ring_size(PyObject *object, void *unused)
{
    (void)unused;
    Packet *self = (Packet *)object;
    return PyLong_FromSsize_t(DESCRIPTOR_SIZE + PyBytes_Size(self->extension) + PyBytes_Size(self->payload) +
                              FOOTER_SIZE);
}

static PyGetSetDef packet_getters[] = {
    {"wants_completion", packet_wants_completion, NULL, NULL, NULL},
    {"ring_size", packet_ring_size, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef packet_members[] = {
    {"packet_type", T_USHORT, offsetof(Packet, packet_type), READONLY, NULL},
    {"flags", T_USHORT, offsetof(Packet, flags), READONLY, NULL},
    {"transaction_id", T_ULONGLONG, offsetof(Packet, transaction_id), READONLY, NULL},
    {"extension", T_OBJECT_EX, offsetof(Packet, extension), READONLY, NULL},
    {"payload", T_OBJECT_EX, offsetof(Packet, payload), READONLY, NULL},
    {"offset", T_UINT, offsetof(Packet, offset), READONLY, NULL},
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

static PyType_Spec packet_spec = {"vmbus._native.RingPacket", sizeof(Packet), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, packet_slots};

/* ---- RingPort ---- */

typedef struct {
    PyObject_HEAD
    Py_buffer control; /* buf is NULL when nothing is held */
    Py_buffer data;
    uint32_t size; /* of the ring; data may show it twice, only the first time is used */
    PyTypeObject *packet_type;
    PyObject *empty;           /* b"" */
} RingPort;

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
    Py_XDECREF((PyObject *)((RingPort *)object)->packet_type);
    Py_XDECREF(((RingPort *)object)->empty);
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
        self->control.len < CONTROL_SIZE || (uintptr_t)self->control.buf % 4 != 0 || (uintptr_t)self->data.buf % 8 != 0) {
        PyErr_SetString(PyExc_ValueError, "a ring of that size cannot lie in that memory");
        goto fail;
    }
    self->size = (uint32_t)size;
    self->empty = PyBytes_FromStringAndSize(NULL, 0);
    self->packet_type = (PyTypeObject *)PyObject_GetAttrString(PyType_GetModule(type), "RingPacket");
    if (self->empty == NULL || self->packet_type == NULL)
        goto fail;
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

/* Parse two offsets or counts; -1 with an exception set if there are not two, or the port was released. */
static int port_arguments(RingPort *self, PyObject *const *args, Py_ssize_t given, uint32_t *first, uint32_t *second)
{
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "two arguments expected");
        return -1;
    }
    if (self->control.buf == NULL) {
        PyErr_SetString(PyExc_ValueError, "this ring port has been released");
        return -1;
    }
    unsigned long one = PyLong_AsUnsignedLong(args[0]);
    if (one == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    unsigned long other = second != NULL ? PyLong_AsUnsignedLong(args[1]) : 0;
    if (other == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    if (one >= self->size || one % 8 != 0 || other > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "no such position in the ring");
        return -1;
    }
    *first = (uint32_t)one;
    if (second != NULL)
        *second = (uint32_t)other;
    return 0;
}

static inline uint32_t *port_word(const RingPort *self, int word)
{
    return (uint32_t *)self->control.buf + word;
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

static inline uint32_t advanced(const RingPort *self, uint32_t position, uint32_t bytes)
{
    position += bytes; /* at most twice 2**30 */
    return position >= self->size ? position - self->size : position;
}

/* One aligned word of a packet, loaded once. */
static inline uint64_t ring_load(const RingPort *self, uint32_t position)
{
    return __atomic_load_n((const uint64_t *)((const char *)self->data.buf + position), __ATOMIC_RELAXED);
}

static inline void ring_store(const RingPort *self, uint32_t position, uint64_t value)
{
    __atomic_store_n((uint64_t *)((char *)self->data.buf + position), value, __ATOMIC_RELAXED);
}

static inline void copy_out(const RingPort *self, uint32_t position, void *target, uint32_t length)
{
    const char *data = self->data.buf;
    uint32_t first = self->size - position;
    if (length <= first) {
        memcpy(target, data + position, length);
    } else {
        memcpy(target, data + position, first);
        memcpy((char *)target + first, data, length - first);
    }
}

static inline void copy_in(const RingPort *self, uint32_t position, const void *source, uint32_t length)
{
    char *data = self->data.buf;
    uint32_t first = self->size - position;
    if (length <= first) {
        memcpy(data + position, source, length);
    } else {
        memcpy(data + position, source, first);
        memcpy(data, (const char *)source + first, length - first);
    }
}

static PyObject *bytes_out(const RingPort *self, uint32_t position, uint32_t length)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (bytes != NULL && length != 0)
        copy_out(self, position, PyBytes_AsString(bytes), length);
    return bytes;
}

static PyObject *pair_of(PyObject *first, PyObject *second)
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

/* Take one packet of the ring. Return its bytes in the ring; 0 when it is odd; -1 with an exception set. */
static int64_t take_packet(const RingPort *self, uint32_t position, uint32_t available, PyObject **packet)
{
    if (available < DESCRIPTOR_SIZE)
        return 0;
    uint64_t head = ring_load(self, position);
    uint64_t transaction_id = ring_load(self, advanced(self, position, 8));
    uint32_t packet_type = head & 0xFFFF, start = (head >> 16 & 0xFFFF) * 8, length = (head >> 32 & 0xFFFF) * 8;
    uint32_t flags = (uint32_t)(head >> 48);
    if (start < DESCRIPTOR_SIZE || length < start || length + FOOTER_SIZE > available ||
        (flags & ~(uint32_t)COMPLETION_REQUESTED) != 0)
        return 0;
    int extended = packet_type == TRANSFER_PAGES || packet_type == GPA_DIRECT;
    if (extended ? start == DESCRIPTOR_SIZE : packet_type != IN_BAND && packet_type != COMPLETION)
        return 0;

    Packet *made = PyObject_Malloc(sizeof *made);
    if (made == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject_Init((PyObject *)made, self->packet_type);
    made->packet_type = (uint16_t)packet_type;
    made->flags = (uint16_t)flags;
    made->offset = position;
    made->transaction_id = transaction_id;
    made->extension = start == DESCRIPTOR_SIZE
                          ? Py_NewRef(self->empty)
                          : bytes_out(self, advanced(self, position, DESCRIPTOR_SIZE), start - DESCRIPTOR_SIZE);
    made->payload = bytes_out(self, advanced(self, position, start), length - start);
    int64_t taken = made->extension != NULL && made->payload != NULL ? (int64_t)length + FOOTER_SIZE : -1;
    if (packet_type == GPA_DIRECT && taken > 0) { /* looked at in the copy */
        uint32_t range_count;
        memcpy(&range_count, PyBytes_AsString(made->extension) + 4, 4);
        if (range_count == 0)
            taken = 0;
    }
    if (taken > 0)
        *packet = (PyObject *)made;
    else
        Py_DECREF(made);
    return taken;
}

/* read(position, limit) -> (list of packets, new position), or None when the first packet, or an index, is odd */
static PyObject *port_read(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t position, limit;
    if (port_arguments(self, args, given, &position, &limit) < 0)
        return NULL;
    uint32_t write_index = __atomic_load_n(port_word(self, WRITE_INDEX), __ATOMIC_ACQUIRE);
    if (write_index >= self->size || write_index % 8 != 0)
        Py_RETURN_NONE;
    uint32_t available = write_index >= position ? write_index - position : self->size - position + write_index;
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

/* A bytes-like argument; only types whose buffers run no Python code. */
typedef struct {
    const void *start;
    Py_ssize_t length;
    Py_buffer buffer; /* obj is NULL for bytes, which need none */
} Bytes;

static inline int bytes_of(const RingPort *self, PyObject *object, Bytes *bytes)
{
    bytes->buffer.obj = NULL;
    if (object == self->empty) {
        bytes->start = "";
        bytes->length = 0;
        return 1;
    }
    if (Py_IS_TYPE(object, &PyBytes_Type)) {
        char *start;
        PyBytes_AsStringAndSize(object, &start, &bytes->length);
        bytes->start = start;
        return 1;
    }
    if (!PyBytes_Check(object) && !PyByteArray_Check(object) && !PyMemoryView_Check(object))
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

static void bytes_done(Bytes *bytes)
{
    if (bytes->buffer.obj != NULL)
        PyBuffer_Release(&bytes->buffer);
}

static inline uint32_t port_free(const RingPort *self, uint32_t position)
{
    uint32_t read_index = __atomic_load_n(port_word(self, READ_INDEX), __ATOMIC_ACQUIRE);
    if (read_index >= self->size || read_index % 8 != 0)
        return 0; /* the reference says so */
    uint32_t used = position >= read_index ? position - read_index : self->size - read_index + position;
    return self->size - used - 8; /* a full ring must not look like an empty one */
}

/* A number argument; the packets of a batch mostly have the same types and flags, as the same objects. */
typedef struct {
    PyObject *object;
    uint64_t value;
} Number;

static inline int number_of(PyObject *object, uint64_t limit, Number *number)
{
    if (object == number->object)
        return 1;
    number->object = NULL;
    if (!Py_IS_TYPE(object, &PyLong_Type) && !PyLong_Check(object))
        return 0;
    number->value = PyLong_AsUnsignedLongLong(object);
    if (number->value == UINT64_MAX && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    number->object = number->value <= limit ? object : NULL;
    return number->object != NULL;
}

/* Put one packet into the ring. Return its bytes in the ring, or 0 when it is odd or there is no room. */
static uint32_t put_packet(const RingPort *self, uint32_t position, uint32_t *available, PyObject *packet,
                           Number numbers[3])
{
    Bytes extension, payload;
    if ((!Py_IS_TYPE(packet, &PyTuple_Type) && !PyTuple_Check(packet)) || PyTuple_Size(packet) != 5 ||
        !number_of(PyTuple_GetItem(packet, 0), 0xFFFF, &numbers[0]) ||
        !number_of(PyTuple_GetItem(packet, 1), 0xFFFF, &numbers[1]) ||
        !number_of(PyTuple_GetItem(packet, 2), UINT64_MAX, &numbers[2]) ||
        !bytes_of(self, PyTuple_GetItem(packet, 3), &extension))
        return 0;
    if (!bytes_of(self, PyTuple_GetItem(packet, 4), &payload)) {
        bytes_done(&extension);
        return 0;
    }
    uint32_t taken = 0;
    if (extension.length % 8 == 0 && extension.length <= LONGEST && payload.length <= LONGEST) {
        uint32_t start = DESCRIPTOR_SIZE + (uint32_t)extension.length;
        uint32_t length = (start + (uint32_t)payload.length + 7) & ~(uint32_t)7;
        if (length + FOOTER_SIZE > *available)
            *available = port_free(self, position);
        if (length <= LONGEST && length + FOOTER_SIZE <= *available) {
            taken = length + FOOTER_SIZE;
            if (length > start) /* zeros behind the payload; it overwrites the rest of this word */
                ring_store(self, advanced(self, position, length - 8), 0);
            ring_store(self, position, numbers[0].value | (uint64_t)(start / 8) << 16 | (uint64_t)(length / 8) << 32 |
                                           numbers[1].value << 48);
            ring_store(self, advanced(self, position, 8), numbers[2].value);
            if (extension.length != 0)
                copy_in(self, advanced(self, position, DESCRIPTOR_SIZE), extension.start, (uint32_t)extension.length);
            copy_in(self, advanced(self, position, start), payload.start, (uint32_t)payload.length);
            ring_store(self, advanced(self, position, length), (uint64_t)position << 32);
        }
    }
    bytes_done(&payload);
    bytes_done(&extension);
    return taken;
}

/* write(position, packets) -> (number written, new position) */
static PyObject *port_write(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t position;
    if (port_arguments(self, args, given, &position, NULL) < 0)
        return NULL;
    PyObject *packets = args[1];
    int is_list = PyList_Check(packets);
    Py_ssize_t total = is_list ? PyList_Size(packets) : PyTuple_Check(packets) ? PyTuple_Size(packets) : 0;
    uint32_t available = port_free(self, position);
    Number numbers[3] = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    Py_ssize_t written = 0;
    while (written < total) {
        PyObject *packet = is_list ? PyList_GetItem(packets, written) : PyTuple_GetItem(packets, written);
        uint32_t taken = put_packet(self, position, &available, packet, numbers);
        if (taken == 0)
            break;
        written++;
        available -= taken;
        position = advanced(self, position, taken);
    }
    return pair_of(PyLong_FromSsize_t(written), PyLong_FromUnsignedLong(position));
}

/* commit_write(old, new) -> whether the receiver wants a signal; as Linux's hv_signal_on_write */
static PyObject *port_commit_write(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t old, new;
    if (port_arguments(self, args, given, &old, &new) < 0)
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
    if (port_arguments(self, args, given, &old, &new) < 0)
        return NULL;
    __atomic_store_n(port_word(self, READ_INDEX), new, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint32_t pending = __atomic_load_n(port_word(self, PENDING_SEND_SIZE), __ATOMIC_ACQUIRE);
    if (pending == 0 || !(__atomic_load_n(port_word(self, FEATURE_BITS), __ATOMIC_RELAXED) & FEATURE_PENDING_SEND_SIZE))
        Py_RETURN_FALSE;
    uint32_t size = self->size, write_index = __atomic_load_n(port_word(self, WRITE_INDEX), __ATOMIC_ACQUIRE);
    if (write_index >= size)
        Py_RETURN_FALSE;
    uint32_t before = size - (write_index >= old ? write_index - old : size - old + write_index);
    uint32_t after = size - (write_index >= new ? write_index - new : size - new + write_index);
    return PyBool_FromLong(before <= pending && pending < after);
}

/* spin(position, nanoseconds) -> whether the write index differs from position before the time is over */
static PyObject *port_spin(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    RingPort *self = (RingPort *)object;
    uint32_t position, nanoseconds;
    if (port_arguments(self, args, given, &position, &nanoseconds) < 0)
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
    METHOD(port, spin),
    METHOD(port, write),
    METHOD(port, commit_read),
    METHOD(port, commit_write),
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

static PyType_Spec port_spec = {"vmbus._native.RingPort", sizeof(RingPort), 0, Py_TPFLAGS_DEFAULT, port_slots};

/* ---- the module ---- */

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

static int native_exec(PyObject *module)
{
    PyType_Spec *specs[] = {&atomic_spec, &packet_spec, &port_spec};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        int failed = type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0;
        Py_XDECREF(type);
        if (failed)
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot native_slots[] = {{Py_mod_exec, native_exec}, {0, NULL}};

static PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT, "vmbus._native", "Shared memory, fast and in order.", 0, native_methods, native_slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}

/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * vmbus.capture._records: records as pcapng packet blocks, a few times as fast as Python builds them.
 *
 * The same functions with the same results as those of vmbus.capture.encode, for what a host does with every request: packets,
 * external, signal. A tap that cost as much as the request itself would not be left on.
 *
 * Everything here is a copy that its receiver has validated; no shared memory is read. Only CPython's limited API is used.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "VMBus is little-endian"
#endif

/* vmbus/capture/blocks.py and vmbus/wire/capture.py declare these formats. */
enum { ENHANCED_PACKET = 6, EPB_FLAGS = 2, VERSION = 1, HEADER_SIZE = 32 };
enum { SIGNAL = 2, PACKET = 3, EXTERNAL = 4 };
enum { DESCRIPTOR_SIZE = 16, FOOTER_SIZE = 8, LONGEST = 0xFFFF * 8, MOST_PACKETS = 4096 };

typedef struct __attribute__((packed)) {
    uint32_t block_type, block_length, interface, time_high, time_low, captured, original;
    uint8_t version, kind;
    uint16_t header_size;
    uint8_t direction, reserved;
    uint16_t flags;
    uint32_t channel_id, reserved2;
} Head;

typedef struct __attribute__((packed)) {
    Head head;
    uint32_t ring_size, offset, read_index, write_index;
    uint16_t packet_type, data_offset8, length8, packet_flags;
    uint64_t transaction_id;
} PacketHead;

typedef struct __attribute__((packed)) {
    Head head;
    uint64_t transaction_id;
    uint32_t total_length, data_offset;
} ExternalHead;

typedef struct __attribute__((packed)) {
    Head head;
    uint32_t connection_id, flag;
    uint8_t reserved[8];
} SignalHead;

typedef struct __attribute__((packed)) {
    uint16_t code, length;
    uint32_t direction, end, block_length;
} Tail;

enum { OVERHEAD = sizeof(Head) + 16 + sizeof(Tail) }; /* bytes of a block around a body */

static void fill_head(Head *head, uint64_t time_ns, uint32_t direction, uint32_t channel_id, int kind,
                      uint32_t block_length, uint32_t captured, uint32_t original)
{
    *head = (Head){
        .block_type = ENHANCED_PACKET, .block_length = block_length, .interface = channel_id,
        .time_high = (uint32_t)(time_ns >> 32), .time_low = (uint32_t)time_ns, .captured = captured, .original = original,
        .version = VERSION, .kind = (uint8_t)kind, .header_size = HEADER_SIZE, .direction = (uint8_t)direction,
        .channel_id = channel_id,
    };
}

static char *put_tail(char *at, uint32_t direction, uint32_t block_length)
{
    Tail tail = {.code = EPB_FLAGS, .length = 4, .direction = direction, .block_length = block_length};
    memcpy(at, &tail, sizeof tail);
    return at + sizeof tail;
}

/* Whole numbers from arguments; what does not fit loses its high bits, as nothing here may fail for a peer's values. */
static int take_numbers(PyObject *const *args, const int *places, uint64_t *values, int count)
{
    for (int i = 0; i < count; i++) {
        values[i] = PyLong_AsUnsignedLongLongMask(args[places[i]]);
        if (values[i] == (uint64_t)-1 && PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* ---- packets ---- */

typedef struct {
    uint64_t packet_type, flags, transaction_id;
    Py_buffer extension, payload; /* obj is NULL when not held */
} Item;

static PyObject *names[5]; /* "packet_type", "flags", ... */

static int take_item(PyObject *packet, Item *item)
{
    int is_plain = Py_TYPE(packet) == &PyTuple_Type && PyTuple_Size(packet) == 5;
    PyObject *values[5] = {NULL};
    int result = -1;
    for (int i = 0; i < 5; i++) {
        values[i] = is_plain ? Py_NewRef(PyTuple_GetItem(packet, i)) : PyObject_GetAttr(packet, names[i]);
        if (values[i] == NULL)
            goto done;
    }
    const int places[] = {0, 1, 2};
    uint64_t numbers[3];
    if (take_numbers(values, places, numbers, 3) < 0)
        goto done;
    item->packet_type = numbers[0];
    item->flags = numbers[1];
    item->transaction_id = numbers[2];
    if (PyObject_GetBuffer(values[3], &item->extension, PyBUF_SIMPLE) < 0) {
        item->extension.obj = NULL;
        goto done;
    }
    if (PyObject_GetBuffer(values[4], &item->payload, PyBUF_SIMPLE) < 0) {
        item->payload.obj = NULL;
        goto done;
    }
    result = 0;
    if (item->extension.len > LONGEST || item->payload.len > LONGEST) {
        PyErr_SetString(PyExc_ValueError, "a packet is longer than any packet can be");
        result = -1;
    }
done:
    for (int i = 0; i < 5; i++)
        Py_XDECREF(values[i]);
    return result;
}

static uint32_t padded_length(const Item *item)
{
    return (uint32_t)((DESCRIPTOR_SIZE + item->extension.len + item->payload.len + 7) & ~(Py_ssize_t)7);
}

static char *put_packet(char *at, const Item *item, const uint64_t *values, uint64_t offset)
{
    uint32_t length = padded_length(item), captured = HEADER_SIZE + length, total = OVERHEAD + length;
    uint32_t data_offset = DESCRIPTOR_SIZE + (uint32_t)item->extension.len;
    PacketHead head = {
        .ring_size = (uint32_t)values[5], .offset = (uint32_t)offset, .read_index = (uint32_t)values[3],
        .write_index = (uint32_t)values[4], .packet_type = (uint16_t)item->packet_type,
        .data_offset8 = (uint16_t)(data_offset >> 3), .length8 = (uint16_t)(length >> 3),
        .packet_flags = (uint16_t)item->flags, .transaction_id = item->transaction_id,
    };
    fill_head(&head.head, values[0], (uint32_t)values[1], (uint32_t)values[2], PACKET, total, captured, captured);
    memcpy(at, &head, sizeof head);
    at += sizeof head;
    memcpy(at, item->extension.buf, (size_t)item->extension.len);
    at += item->extension.len;
    memcpy(at, item->payload.buf, (size_t)item->payload.len);
    at += item->payload.len;
    uint32_t padding = length - data_offset - (uint32_t)item->payload.len;
    memset(at, 0, padding);
    return put_tail(at + padding, (uint32_t)values[1], total);
}

/* packets(time_ns, direction, channel_id, batch, offset, read_index, write_index, ring_size) */
static PyObject *records_packets(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    (void)module;
    if (given != 8) {
        PyErr_SetString(PyExc_TypeError, "eight arguments expected");
        return NULL;
    }
    const int places[] = {0, 1, 2, 5, 6, 7, 4};
    uint64_t values[7]; /* time, direction, channel, read index, write index, ring size, offset */
    if (take_numbers(args, places, values, 7) < 0)
        return NULL;
    Py_ssize_t count = PySequence_Size(args[3]), taken = 0;
    if (count < 0)
        return NULL;
    if (count > MOST_PACKETS) {
        PyErr_SetString(PyExc_ValueError, "too many packets in a batch");
        return NULL;
    }
    Item few[8], *items = few;
    if (count > (Py_ssize_t)(sizeof few / sizeof *few)) {
        items = PyMem_Malloc((size_t)count * sizeof *items);
        if (items == NULL)
            return PyErr_NoMemory();
    }
    PyObject *result = NULL;
    size_t size = 0;
    for (; taken < count; taken++) {
        items[taken].extension.obj = items[taken].payload.obj = NULL;
        PyObject *packet = PySequence_GetItem(args[3], taken);
        int failed = packet == NULL || take_item(packet, &items[taken]) < 0;
        Py_XDECREF(packet);
        if (failed) {
            taken++;
            goto done;
        }
        size += OVERHEAD + padded_length(&items[taken]);
    }
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (result == NULL)
        goto done;
    char *at = PyBytes_AsString(result);
    uint64_t offset = values[6], ring_size = values[5];
    for (Py_ssize_t i = 0; i < count; i++) {
        at = put_packet(at, &items[i], values, offset);
        offset += padded_length(&items[i]) + FOOTER_SIZE;
        if (ring_size > 0 && offset >= ring_size)
            offset -= ring_size;
    }
done:
    for (Py_ssize_t i = 0; i < taken; i++) {
        if (items[i].extension.obj != NULL)
            PyBuffer_Release(&items[i].extension);
        if (items[i].payload.obj != NULL)
            PyBuffer_Release(&items[i].payload);
    }
    if (items != few)
        PyMem_Free(items);
    return result;
}

/* ---- external data ---- */

/* Copy pieces behind each other; with at NULL only measure them. -1 with an exception set on failure. */
static Py_ssize_t copy_pieces(PyObject *pieces, Py_ssize_t count, char *at, Py_ssize_t room)
{
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *piece = PySequence_GetItem(pieces, i);
        Py_buffer view;
        if (piece == NULL)
            return -1;
        int failed = PyObject_GetBuffer(piece, &view, PyBUF_SIMPLE);
        Py_DECREF(piece);
        if (failed < 0)
            return -1;
        if (at != NULL && size + view.len <= room)
            memcpy(at + size, view.buf, (size_t)view.len);
        size += view.len;
        PyBuffer_Release(&view);
    }
    return size;
}

/* external(time_ns, direction, channel_id, transaction_id, total_length, data_offset, data) */
static PyObject *records_external(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    (void)module;
    if (given != 7) {
        PyErr_SetString(PyExc_TypeError, "seven arguments expected");
        return NULL;
    }
    const int places[] = {0, 1, 2, 3, 4, 5};
    uint64_t values[6];
    if (take_numbers(args, places, values, 6) < 0)
        return NULL;
    PyObject *pieces = PySequence_Fast(args[6], "pieces of data expected");
    if (pieces == NULL)
        return NULL;
    Py_ssize_t count = PySequence_Size(pieces), size = copy_pieces(pieces, count, NULL, 0);
    PyObject *result = NULL;
    if (size < 0)
        goto done;
    if (size > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "too much data for a record");
        goto done;
    }
    uint32_t padding = (uint32_t)(-size & 3), total = OVERHEAD + (uint32_t)size + padding;
    uint64_t whole = values[4] - values[5];
    if (values[4] < values[5] || whole < (uint64_t)size)
        whole = (uint64_t)size;
    result = PyBytes_FromStringAndSize(NULL, total);
    if (result == NULL)
        goto done;
    char *at = PyBytes_AsString(result);
    ExternalHead head = {
        .transaction_id = values[3], .total_length = (uint32_t)values[4], .data_offset = (uint32_t)values[5]
    };
    fill_head(&head.head, values[0], (uint32_t)values[1], (uint32_t)values[2], EXTERNAL, total,
              HEADER_SIZE + (uint32_t)size, HEADER_SIZE + (uint32_t)whole);
    memcpy(at, &head, sizeof head);
    at += sizeof head;
    if (copy_pieces(pieces, count, at, size) != size) {
        Py_CLEAR(result);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "the data changed its length");
        goto done;
    }
    memset(at + size, 0, padding);
    put_tail(at + size + padding, (uint32_t)values[1], total);
done:
    Py_DECREF(pieces);
    return result;
}

/* signal(time_ns, direction, channel_id, connection_id, flag) */
static PyObject *records_signal(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    (void)module;
    const int places[] = {0, 1, 2, 3, 4};
    uint64_t values[5];
    if (given != 5) {
        PyErr_SetString(PyExc_TypeError, "five arguments expected");
        return NULL;
    }
    if (take_numbers(args, places, values, 5) < 0)
        return NULL;
    char block[OVERHEAD];
    SignalHead head = {.connection_id = (uint32_t)values[3], .flag = (uint32_t)values[4]};
    fill_head(&head.head, values[0], (uint32_t)values[1], (uint32_t)values[2], SIGNAL, OVERHEAD, HEADER_SIZE, HEADER_SIZE);
    memcpy(block, &head, sizeof head);
    put_tail(block + sizeof head, (uint32_t)values[1], OVERHEAD);
    return PyBytes_FromStringAndSize(block, OVERHEAD);
}

/* ---- the module ---- */

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))records_##name, METH_FASTCALL, "See vmbus.capture.encode."}

static PyMethodDef records_methods[] = {
    METHOD(packets),
    METHOD(external),
    METHOD(signal),
    {NULL, NULL, 0, NULL},
};

static int records_exec(PyObject *module)
{
    (void)module;
    const char *texts[] = {"packet_type", "flags", "transaction_id", "extension", "payload"};
    for (int i = 0; i < 5; i++) {
        if (names[i] == NULL)
            names[i] = PyUnicode_InternFromString(texts[i]);
        if (names[i] == NULL)
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot records_slots[] = {{Py_mod_exec, records_exec}, {0, NULL}};

static PyModuleDef records_module = {
    PyModuleDef_HEAD_INIT, "vmbus.capture._records", "Records, built quickly.", 0, records_methods, records_slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__records(void);

PyMODINIT_FUNC PyInit__records(void)
{
    return PyModuleDef_Init(&records_module);
}

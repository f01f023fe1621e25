/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where CPython keeps the items of a tuple and the bytes of a bytes object.
 *
 * The limited API has functions for both, and a call for each of a packet's five fields takes longer than all the rest
 * of writing it. So the places are looked up when the module is loaded (layout.c), and believed when known contents are
 * found there; otherwise the functions are called.
 */
#ifndef VMBUS_LAYOUT_H
#define VMBUS_LAYOUT_H

#include <stddef.h>

typedef struct {
    size_t tuple_items; /* from the object's address on; 0 if it was not found */
    size_t bytes_start;
} Layout;

/* Fill a layout; -1 with an exception set if there is no memory. */
int layout_find(Layout *layout);

/* A borrowed reference; the tuple has that many items. */
static inline PyObject *tuple_item(const Layout *layout, PyObject *tuple, Py_ssize_t index)
{
    if (layout->tuple_items == 0)
        return PyTuple_GetItem(tuple, index);
    return ((PyObject **)((char *)tuple + layout->tuple_items))[index];
}

static inline char *bytes_start(const Layout *layout, PyObject *bytes)
{
    return layout->bytes_start != 0 ? (char *)bytes + layout->bytes_start : PyBytes_AsString(bytes);
}

#endif

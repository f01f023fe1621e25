/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Finding the places that layout.h describes.
 */
#include "native.h"

/* An object of variable size is a fixed part, whose size its type tells, and the items behind it. */
static int find_tuple_items(size_t *place)
{
    PyObject *known[] = {Py_None, Py_True, Py_False};
    PyObject *sample = PyTuple_Pack(3, known[0], known[1], known[2]);
    PyObject *size = PyObject_GetAttrString((PyObject *)&PyTuple_Type, "__basicsize__");
    Py_ssize_t offset = size != NULL ? PyLong_AsSsize_t(size) : -1;
    int found = sample != NULL && offset > 0;
    if (found && offset % (Py_ssize_t)sizeof(PyObject *) == 0)
        *place = memcmp((char *)sample + offset, known, sizeof known) == 0 ? (size_t)offset : 0;
    Py_XDECREF(size);
    Py_XDECREF(sample);
    return found ? 0 : -1;
}

/* The bytes are in the object, at the same place whatever their number. */
static int find_bytes_start(size_t *place)
{
    PyObject *shorter = PyBytes_FromString("x"), *longer = PyBytes_FromString("not quite as short");
    int made = shorter != NULL && longer != NULL;
    if (made) {
        ptrdiff_t offset = PyBytes_AsString(shorter) - (char *)shorter;
        *place = offset > 0 && PyBytes_AsString(longer) - (char *)longer == offset ? (size_t)offset : 0;
    }
    Py_XDECREF(shorter);
    Py_XDECREF(longer);
    return made ? 0 : -1;
}

int layout_find(Layout *layout)
{
#ifdef LAYOUT_UNKNOWN /* tests build it so, to see that the functions do as well */
    *layout = (Layout){0, 0};
    return 0;
#endif
    return find_tuple_items(&layout->tuple_items) < 0 || find_bytes_start(&layout->bytes_start) < 0 ? -1 : 0;
}

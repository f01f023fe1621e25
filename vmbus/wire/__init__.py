"""Every format that crosses VMBus, each declared once; no I/O and no state.

``schema`` is the vocabulary, ``codec`` and ``tree`` what is derived at run time, ``construct_face`` and ``numpy_face``
what is derived on demand.  The other modules are the formats, one protocol to a file.
"""

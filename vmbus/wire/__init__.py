"""Every format that crosses VMBus, each declared once; no I/O and no state.

``schema`` is the vocabulary (its words are in ``fields``, its arithmetic in ``expression``, its open enumerations in
``enums``); ``codec`` and ``tree`` are what is derived at run time, ``construct_face``, ``numpy_face`` and ``tables``
what is derived on demand.  The other modules are the formats, one protocol to a file or folder; ``protocols`` says
which of them a device's channel speaks.
"""

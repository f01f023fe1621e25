"""The guest emulation transport (GET): how a paravisor asks its host for time, state, settings and attestation.

``message`` has the root format, ``requests`` what the guest asks and the host answers, ``notifications`` what either
sends unasked, ``values`` the enumerations.
"""

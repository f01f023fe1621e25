"""Wireshark: the generated Lua dissector, the extcap, and their installation."""

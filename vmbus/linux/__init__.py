"""The real Linux guest: a kernel with Hyper-V's own drivers, running as an ordinary process against our host.

``build`` makes the kernel from Debian's sources or anyone's tree with the shim in ``shim/``, ``initramfs`` packs what
it boots, ``launch`` starts it. docs/linux-guest.md tells the whole story.
"""

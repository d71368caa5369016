"""Keep a process from using AMX, by having the kernel refuse it (Linux on x86-64).

llama.cpp 0.3.36 loads quantized matrices in its layout for AMX where the kernel lets it, and dies in `ldtilecfg` when
more than one token is evaluated. Refused, it takes the layout for other vector instructions, which it has too.
"""

import ctypes
import platform
import struct
import sys

ARCH_PRCTL, REQUEST_PERMISSION = 158, 0x1023  # the call by which a process asks for the state of its tiles
X86_64 = 0xC000003E
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # of the kernel's packet filter, which judges calls here
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # with EPERM
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2


def refuse() -> bool:
    """Whether it is refused from now on, in this process and its children."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    steps = (
        (LOAD, 0, 0, 4),  # the architecture
        (EQUAL, 0, 5, X86_64),
        (LOAD, 0, 0, 0),  # the number of the call
        (EQUAL, 0, 3, ARCH_PRCTL),
        (LOAD, 0, 0, 16),  # its first argument
        (EQUAL, 0, 1, REQUEST_PERMISSION),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(steps), ctypes.addressof(text))
    libc = ctypes.CDLL(None)
    return libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and libc.prctl(SECCOMP, FILTER, program) == 0

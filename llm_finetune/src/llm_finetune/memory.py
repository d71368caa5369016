"""Memory of this process, now and at its most."""

import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def used() -> int:
    """Bytes of memory that this process has now; 0 where the system doesn't tell (only Linux does)."""
    return _status("VmRSS:")


def peak() -> int:
    """The most bytes that this process has had so far, 0 on Windows."""
    found = _status("VmHWM:")
    return found or _most()


def _status(key: str) -> int:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), 0)


def _most() -> int:
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most

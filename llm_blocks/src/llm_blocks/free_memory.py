"""How much memory this process may still take."""

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that the machine and every control group of this process have free or can free of file pages (Linux).

    0 where the system doesn't tell.
    """
    try:
        lines = MEMINFO.read_text().splitlines()
        machine = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0
    return min([machine, *_rooms()])


def _rooms() -> list[int]:
    """What is left of each limit that holds for this process: its own group's, and those of all groups above."""
    rooms: list[int] = []
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return rooms
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":  # version 2
            root, limit, usage, prefix = GROUPS, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit, usage, prefix = GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        folder = root / path.lstrip("/")  # in a container it may be a path of the host, of which the root alone is here
        for group in (folder, *folder.parents) if folder.is_relative_to(root) else ():
            if group.is_relative_to(root):
                rooms += _room(group, limit, usage, prefix)
    return rooms


def _room(group: Path, limit: str, usage: str, prefix: str) -> list[int]:
    """What is left of the limit of one group, file pages counted as free; nothing where it has none."""
    try:
        most = int((group / limit).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        return [most - int((group / usage).read_text()) + files]
    except (OSError, ValueError):  # no such group here, or no limit ("max")
        return []

"""Memory of the machine against that of a device."""

from pathlib import Path

import torch


def is_cpu_memory_less_than_gpu(device: str | torch.device) -> bool:
    """Whether this machine's whole memory (Linux: /proc/meminfo) is less than that of a CUDA device, e.g. "cuda:0".

    ValueError when `device` isn't a CUDA device.
    """
    if torch.device(device).type != "cuda":
        raise ValueError(f"device must be a CUDA device such as 'cuda:0', not {str(device)!r}")
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    cpu_bytes = int(total.split()[1]) * 1024  # the file counts in KiB
    return cpu_bytes < torch.cuda.get_device_properties(device).total_memory

"""Reading a small tensor back to the host without making the device wait."""

import torch
from torch import Tensor

# Devices whose queue runs ahead of the host, and whose copies into pinned memory can be waited for by an event.
_QUEUED = ("cuda", "xpu")


def new_event(device: torch.device) -> torch.Event:
    """An event of this device's stream."""
    return torch.Event(device)


class LateReader:
    """Hands out what was put in one call earlier; on the CPU, where reading costs nothing, what was put in just now.

    On an accelerator the host therefore waits for the step before the one it has just queued, so the device always
    has work. Nothing to hand out yet is None.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_late = device.type in _QUEUED
        self._device = device
        self._waiting: tuple[Tensor, torch.Event] | None = None

    def exchange(self, values: Tensor) -> list[int] | None:
        """Put in this step's values and take out those that are ready."""
        if not self.is_late:
            return values.tolist()
        earlier = self.take()
        # A non-blocking copy to the CPU lands in pinned memory; its values may be read after the event.
        copy = values.to("cpu", non_blocking=True)
        event = new_event(self._device)
        event.record()
        self._waiting = (copy, event)
        return earlier

    def take(self) -> list[int] | None:
        """Take out the last values, waiting for them."""
        if self._waiting is None:
            return None
        copy, event = self._waiting
        event.synchronize()
        self._waiting = None
        return copy.tolist()

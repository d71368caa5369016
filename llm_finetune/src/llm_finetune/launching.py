"""Several processes for one command: `launch` starts them on this machine, `started` joins them from within.

They find each other by the environment that torchrun sets, which may start them as well, and must where there are
several machines. `launch` isn't torchrun for two reasons: that gives processes which got a signal thirty seconds and
then kills them while they save, and a Ctrl-C reaches them twice.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module

import torch
import torch.distributed as dist

INTERRUPTED = 130
_GRACE = 10.0  # seconds that the others have when one has ended
_QUIET = 0.3  # seconds without a message before a process leaves


@contextmanager
def started(devices: int = 1, num_nodes: int = 1) -> Iterator[torch.device]:
    """A block in which this process is one of devices x num_nodes, and the device that it computes on.

    They talk by NCCL on CUDA, where each has the device of its LOCAL_RANK, and by gloo elsewhere. A single process that
    nobody started with others is by itself. ValueError for numbers that are not those it was started with.
    """
    count, cuda = devices * num_nodes, torch.cuda.is_available()
    if devices < 1 or num_nodes < 1:
        raise ValueError(f"devices and num_nodes are at least 1, not {devices} and {num_nodes}")
    there = os.environ.get("WORLD_SIZE")
    if int(there or 1) != count:
        raise ValueError(
            f"{devices} devices on {num_nodes} machines are {count} processes, and {there or 'one'} was started; "
            f"on each machine begin the command with: torchrun --nnodes={num_nodes} --nproc-per-node={devices}"
        )
    local = int(os.environ.get("LOCAL_RANK", 0))
    if cuda and local >= torch.cuda.device_count():
        raise ValueError(f"{devices} devices were asked for, and there are {torch.cuda.device_count()}")
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if there is None:
        yield device
        return
    import_module("torch._dynamo")  # an optimizer's first step would, and imported then it keeps the group for ever
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield device
        dist.barrier()  # none leaves while another still talks to it
        # A mesh keeps the group and its threads, which take Python's lock to let go of what they sent last: when that
        # comes while Python ends, it aborts the process.
        time.sleep(_QUIET)
    finally:
        dist.destroy_process_group()


def launch(argv: Sequence[str], devices: int, num_nodes: int = 1) -> int:
    """Run a command as that many processes on this machine and give its exit code: 0 where all end with 0.

    When one ends otherwise the others are ended too, and a line on stderr says which it was. SIGINT and SIGTERM go on
    to all of them, which have their time to save; then the code is 130. A second signal ends them at once. ValueError
    for less than one device and for several machines, on each of which torchrun is to be started.
    """
    if devices < 1 or num_nodes != 1:
        rule = "several machines start by torchrun on each" if num_nodes != 1 else "devices is at least 1"
        raise ValueError(f"{rule}: devices is {devices}, num_nodes {num_nodes}")
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(devices)}
    shared.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    came: list[int] = []
    before = {each: signal.signal(each, lambda number, frame: came.append(number)) for each in _SIGNALS}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(devices):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(devices)}
            processes.append(_start(argv, shared | own))
        return _wait(processes, came)
    finally:
        _end(processes, 0.0)
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _start(argv: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Ctrl-C at a terminal reaches all of its group, and these are to get it from here alone
    group = None if os.name == "nt" else 0
    return subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, process_group=group)


def _wait(processes: Sequence[subprocess.Popen[bytes]], came: list[int]) -> int:
    passed_on = 0
    while True:
        for number in came[passed_on:]:
            passed_on += 1
            for each in processes:
                each.send_signal(number)
        codes = [each.poll() for each in processes]
        if any(codes):  # neither running nor done
            return _ended(processes, codes, interrupted=bool(came))
        if None not in codes:
            return INTERRUPTED if came else 0
        time.sleep(0.05)


def _ended(processes: Sequence[subprocess.Popen[bytes]], codes: Sequence[int | None], *, interrupted: bool) -> int:
    """After one has ended with other than 0: the code for all of them."""
    rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
    if interrupted:
        _end(processes, _GRACE, ask=False)
        return INTERRUPTED
    _end(processes, _GRACE)
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    sys.stderr.write(f"process {rank} of {len(processes)} ended {how}, so the others were ended too\n")
    return code if code > 0 else 1


def _end(processes: Sequence[subprocess.Popen[bytes]], grace: float, *, ask: bool = True) -> None:
    """End those that are running: by asking where `ask`, and after `grace` seconds by force."""
    running = [each for each in processes if each.poll() is None]
    for each in running if ask and grace else ():
        each.terminate()
    end = time.monotonic() + grace
    while time.monotonic() < end and any(each.poll() is None for each in running):
        time.sleep(0.05)
    for each in running:
        if each.poll() is None:
            each.kill()
        each.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

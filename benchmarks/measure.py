"""Time and memory of one process."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

Clock = Callable[[], float]


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what is queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """The time of one call."""
    start = clock()
    action()
    return clock() - start


def forget_peak() -> None:
    """Let the kernel count this process's peak memory from here on (Linux).

    Otherwise the peak of loading a model hides that of the work.
    """
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5")


def resident_peak() -> float:
    """This process's peak of resident memory in MB.

    Linux's own counter is read where there is one, since getrusage inherits the peak of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

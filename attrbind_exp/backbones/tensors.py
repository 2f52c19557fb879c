"""Small things that are done to tensors in many rooms: copies between host and device, precision, rows of a batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, without waiting for what is queued there."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def to_host(values: Tensor) -> Callable[[], Tensor]:
    """Queue a copy to the host. Calling the result waits for it, and for nothing that is queued later."""
    if values.device.type != "cuda":  # on others nothing tells when a copy that nobody waited for is there
        copied = values.to("cpu")
        return lambda: copied
    copy = values.to("cpu", non_blocking=True)  # torch pins it
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(values.device))

    def wait() -> Tensor:
        event.synchronize()
        return copy

    return wait


def counts_there(device: torch.device) -> bool:
    """Whether heat maps are counted on a device: where copies to the host cost more than launching what counts."""
    return device.type == "cuda"


def beside(device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """A place beside the passes for what the device is asked to do with all that is queued so far: inside the context
    that the result gives, in any thread, a second stream waits for that, and for nothing that is queued later. What is
    read there must be kept until it is done."""
    if device.type != "cuda":
        return nullcontext
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(device))

    def enter() -> AbstractContextManager[object]:
        stream = _second_stream(device)
        stream.wait_event(ready)
        return torch.cuda.stream(stream)

    return enter


@lru_cache(8)
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)  # small work goes before the kernels of a pass that wait


def pad_rows(rows: Tensor, size: int) -> Tensor:
    """`rows` (B, ...) with the last one repeated until there are `size`.

    Kernels add in another order for another number of rows, but a row is the same whatever the others hold. So figures
    that must not depend on what shares a batch come from batches of one size.
    """
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])]) if len(rows) < size else rows


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision to float32, as sums and differences of probabilities need; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def overflowed(values: Tensor) -> list[bool]:
    """Which of B rows, (B, ...), hold a value that is not finite."""
    return (~values.isfinite().flatten(1).all(1)).tolist()

"""What to do where a device's memory runs out: the same work in smaller parts."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from attrbind_exp.log import log
from attrbind_exp.types import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# How torch says it where it has no type of error for it: MPS, and CUDA's libraries that could not get a workspace.
WORDS = ("out of memory", "STATUS_ALLOC_FAILED")


def in_parts(
    work: Callable[[Sequence[Item], int], Sequence[Result]], items: Sequence[Item], size: int, what: str
) -> tuple[list[Result], int]:
    """The results of work(part, size) for parts of at most `size` items one after the other, and the size that fitted.

    Where memory runs out, the size is halved and the part made again. `what` names the size in the warning that says
    so. Raises UserError where a single item does not fit.
    """
    found: list[Result] = []
    while items:
        made = _attempt(work, items[:size], size, what)
        if made is None:
            # Not where the error is caught: there it still holds the tensors that were too many.
            size //= 2
            empty_caches()
            log.warning(f"WARNING: out of memory: {what} is {size} now")
            continue
        found += made
        items = items[size:]
    return found, size


def _attempt(
    work: Callable[[Sequence[Item], int], Sequence[Result]], part: Sequence[Item], size: int, what: str
) -> Sequence[Result] | None:
    """What work(part, size) gives; None where that does not fit into memory."""
    try:
        return work(part, size)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if size == 1:
            said = str(error).strip().partition("\n")[0][:200]
            mend = "free the device's memory, or try model.dtype=fp16, a smaller model.size or model.device=cpu"
            raise UserError(f"out of memory even with {what} 1 ({said}); {mend}") from error
    return None


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in WORDS)


def empty_caches() -> None:
    """Give back what torch keeps of freed memory, on whichever device computes."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()

"""Shapes of what heat-map methods make, looked at once a pass: broadcasting would make figures of another one, too."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from attrbind_exp.types import UserError

HEADS = "heads are an axis only where request asks for by_head=True, and then the method means them, or the like, first"


@contextmanager
def naming(method: object, hook: str) -> Iterator[None]:
    """What a user can mend in a method's `hook` is said with the method's class."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{type(method).__name__}.{hook} {error}") from error


def check_floats(made: object, axes: dict[str, int | None], mend: str, to: str = "") -> Tensor:
    """What was made, as it is. Raises UserError unless it is a tensor of floats with these axes, each a letter and how
    long it must be, None = any length. The error says which function it was given `to`, and the `mend`."""
    if isinstance(made, Tensor):
        kind = f"{str(made.dtype).removeprefix('torch.')} of shape {tuple(made.shape)}"
        fits = made.ndim == len(axes) and all(n in (None, m) for n, m in zip(axes.values(), made.shape, strict=True))
        if fits and made.is_floating_point():
            return made
    else:
        kind = f"a {type(made).__name__}"
    known = ", ".join(f"{letter} = {length}" for letter, length in axes.items() if length is not None)
    raise UserError(f"gave {to}{kind}, not floats ({', '.join(axes)}){f' with {known}' if known else ''}; {mend}")

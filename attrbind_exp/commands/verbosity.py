"""-v and -q, which every command takes: how much is said besides the results.

-v says what is usually silent: how long stages took, the batch size, what came from the cache, warnings of libraries.
-q leaves errors and the last line.
"""

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from attrbind_exp.log import HOW_MUCH, log, quiet, set_level
from attrbind_exp.types import UserError

FLAGS = {"-v": "verbose", "--verbose": "verbose", "-q": "quiet", "--quiet": "quiet"}


def take_verbosity(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """What the flags among the arguments ask for, None where there is none, and all other arguments. Behind "--" there
    are no flags. Raises UserError where both are given."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    asked = {FLAGS[a] for a in arguments[:end] if a in FLAGS}
    if len(asked) > 1:
        raise UserError("-v and -q ask for more and for less; give one of them")
    return next(iter(asked), None), [a for i, a in enumerate(arguments) if i >= end or a not in FLAGS]


@contextmanager
def use_verbosity(asked: str | None, serves: bool = False) -> Iterator[None]:
    """While it lasts, this process and all that it starts say as much as was asked for. `serves`: the command prints
    one line and goes on, so no line is waited for."""
    if asked is None:
        yield
        return
    before, disabled = os.environ.get(HOW_MUCH), logging.root.manager.disable
    os.environ[HOW_MUCH] = asked
    set_level()
    try:
        if serves or not quiet():
            yield
        else:
            with last_line(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logging.disable(logging.WARNING)  # of all libraries
                yield
    finally:
        logging.disable(disabled)
        if before is None:
            del os.environ[HOW_MUCH]
        else:
            os.environ[HOW_MUCH] = before
        set_level()


@contextmanager
def last_line() -> Iterator[None]:
    """Keep back what is printed while it lasts; then print the last line of it."""
    kept = io.StringIO()
    try:
        with redirect_stdout(kept):
            yield
    finally:
        if text := kept.getvalue().rstrip():
            print(text.rpartition("\n")[2], flush=True)


@contextmanager
def taking_verbosity() -> Iterator[None]:
    """The same for commands that are not started by Hydra: -v and -q are taken from the command line."""
    try:
        asked, rest = take_verbosity(sys.argv[1:])
    except UserError as error:
        log.error(f"error: {error}")
        sys.exit(2)
    sys.argv[1:] = rest
    with use_verbosity(asked):
        yield

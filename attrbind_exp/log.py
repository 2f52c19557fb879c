"""What the package says besides its results: one logger, `attrbind_exp`, which writes to stderr.

-v and -q choose how much of it is said (commands/verbosity.py). Processes that a command starts learn of it by the
environment.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

HOW_MUCH = "ATTRBIND_EXP_LOG"  # the variable; one of LEVELS, all else is the usual
LEVELS = {"quiet": logging.ERROR, "verbose": logging.DEBUG}


class _Stderr(logging.Handler):
    """Writes to what sys.stderr is at that moment: a bar or a launcher may have put another stream in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


log = logging.getLogger("attrbind_exp")
log.propagate = False  # else a program that has a root logger would say all twice
log.addHandler(_Stderr())


def asked_for() -> str | None:
    """One of LEVELS, None for the usual."""
    asked = os.environ.get(HOW_MUCH)
    return asked if asked in LEVELS else None


def set_level() -> None:
    """Say as much as the environment asks for."""
    log.setLevel(LEVELS.get(asked_for() or "", logging.INFO))


set_level()


def verbose() -> bool:
    """Whether -v was given."""
    return log.isEnabledFor(logging.DEBUG)


def quiet() -> bool:
    """Whether -q was given."""
    return not log.isEnabledFor(logging.WARNING)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """With -v, say how long a stage took."""
    start = time.perf_counter()
    yield
    log.debug(f"{stage}: {time.perf_counter() - start:.1f} s")

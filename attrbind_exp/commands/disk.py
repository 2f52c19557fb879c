"""What a disk refuses, in any command: one line, not a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from attrbind_exp.types import UserError

# Full, spoilt, closed to us, or gone: not a fault of the program. All others are, and keep their traceback.
REFUSALS = ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EPERM", "EROFS", "ESTALE", "ENOLCK")
NUMBERS = frozenset(getattr(errno, name) for name in REFUSALS if hasattr(errno, name))


@contextmanager
def disk_errors() -> Iterator[None]:
    """While it lasts, what the disk refuses becomes a UserError that names the file, where the system says which."""
    try:
        yield
    except OSError as error:
        if error.errno not in NUMBERS:
            raise
        where = f" '{error.filename}'" if error.filename else ""
        raise UserError(
            f"the disk refused{where}: {error.strerror}; what was done is kept; mend that and start again"
        ) from error

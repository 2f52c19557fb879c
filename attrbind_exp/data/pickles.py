"""REFER's pickles, read without running any code that they hold."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrbind_exp.types import UserError


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, strings, numbers, booleans and None. It refuses every class or function that a pickle asks
    for, apart from the one by which Python 3 writes bytes."""

    def find_class(self, module: str, name: str) -> Callable[[str, str], bytes]:
        if (module, name) == ("_codecs", "encode"):
            return _latin1  # how Python 3 writes bytes in protocols 0 to 2
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks to encode with {encoding!r}")
    return text.encode("latin1")


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain data holds, written by Python 2 or 3.

    Raises UserError when the file is damaged or asks for anything but plain data.
    """
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="utf-8").load()
    except Exception as error:  # a hostile pickle can raise anything, and all of it means "refused"
        raise UserError(
            f"'{path}' was refused: {error}; a refs file may hold only lists, dicts, strings and numbers. "
            "Get the file again from its source, or give a JSON twin of it"
        ) from error

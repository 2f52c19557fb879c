"""REFER's pickles, read without running any code that they hold, and within bounds of memory and time.

A pickle is a list of instructions for a machine with a stack and numbered places to remember things in. Python's own
machine is used, after a look at every instruction. Refused are those that build other things than plain data, and a
file that would take much more memory than plain data of its size do.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from attrbind_exp.types import UserError

MOST_DEEP = 100  # lists in lists; refs need four
# Most bytes that a pickle may take: so many for each of its own, and some beside. They are counted generously: of all
# refs of RefCOCO 18 to 23 a byte, where 4 to 8 are taken.
PER_BYTE, BESIDE = 40, 20 * 2**20
ITEM, CONTAINER, LETTER = 56, 120, 4  # what an instruction takes at most, a list or dict, a byte of text
MOST_DIGITS = 24  # of a number; longer ones could be keys that all have the same hash


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, strings, numbers, booleans and None. It refuses every class or function that a pickle asks
    for, apart from the one by which Python 3 writes bytes."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.letters = len(data)  # that may still be turned into bytes

    def find_class(self, module: str, name: str) -> Callable[[str, str], bytes]:
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        _refuse(f"it asks for {module}.{name}")

    def encode(self, text: str, encoding: str) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            _refuse(f"it asks to encode with {str(encoding)[:40]!r}")
        self.letters -= len(text)
        if self.letters < 0:
            _refuse("it turns more text into bytes than it holds")
        return text.encode("latin1")


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain data holds, written by Python 2 or 3.

    Raises UserError when the file is damaged, asks for anything but plain data, or would take much more memory than its
    size.
    """
    try:
        data = path.read_bytes()
        check_instructions(data)
        found = _PlainUnpickler(data).load()
        check_nesting(found, len(data))
        return found
    except Exception as error:  # a hostile pickle can raise anything, and all of it means "refused"
        said = " ".join(str(error).split())[:200]
        said = said if said.isprintable() else ascii(said)[1:-1]
        raise UserError(
            f"'{path}' was refused: {said}; a refs file may hold only lists, dicts, strings and numbers. "
            "Get the file again from its source, or give a JSON twin of it"
        ) from error


def check_instructions(data: bytes) -> None:
    """Raise UnpicklingError for a pickle that is cut, that builds anything but plain data, or takes too much memory."""
    at, left = 0, PER_BYTE * len(data) + BESIDE
    while at < len(data):
        code = data[at]
        size = SIZES.get(code)
        if size is None:
            size, letters = LOOKS.get(code, _look_at_other)(data, at)
            left -= LETTER * letters
        left -= COSTS[code]
        if left < 0:
            _refuse(f"it would take more than {PER_BYTE} times its size and {BESIDE >> 20} MB of memory")
        if code == STOP:
            return
        at += size
    _refuse("it is cut")


# What follows looks at one instruction, at byte `at`: its size, and how much of it is text. It raises UnpicklingError
# for one that is refused.


def _look_at_line(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(b"\n", at)
    if end < 0:
        _refuse("it is cut")
    return end + 1 - at, end - at


def _look_at_digits(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(b"\n", at, at + MOST_DIGITS)
    if end < 0:
        _refuse(f"it is damaged at byte {at}, where a number should follow")
    return end + 1 - at, 0


def _look_at_put(data: bytes, at: int) -> tuple[int, int]:
    size, _ = _look_at_digits(data, at)
    place = data[at + 1 : at + size - 1]
    if not place.isdigit() or int(place) > at:
        _refuse(f"it is damaged at byte {at}: it remembers something at place {ascii(place)[2:-1]}")
    return size, 0


def _look_at_long_put(data: bytes, at: int) -> tuple[int, int]:
    place = int.from_bytes(data[at + 1 : at + 5], "little")
    if place > at:
        _refuse(f"it is damaged at byte {at}: it remembers something at place {place}")
    return 5, 0


def _look_at_text(data: bytes, at: int) -> tuple[int, int]:
    start = STARTS[data[at]]
    length = int.from_bytes(data[at + 1 : at + start], "little")
    if at + start + length > len(data):
        _refuse(f"it is damaged at byte {at}, where {length} bytes should follow")
    return start + length, length


def _look_at_long(data: bytes, at: int) -> tuple[int, int]:
    if data[at + 1 : at + 2] > b"\x09":
        _refuse(f"it holds a number of more than {MOST_DIGITS} digits at byte {at}")
    return _look_at_text(data, at)


def _look_at_frame(data: bytes, at: int) -> tuple[int, int]:
    _look_at_text(data, at)
    return 9, 0  # what it frames are instructions


def _look_at_tuple(data: bytes, at: int) -> tuple[int, int]:
    if not BYTES_FOLLOW.match(data, at):  # tuples as keys of a dict could be made to take days
        _refuse(f"it asks for a tuple at byte {at}")
    return 1, 0


def _look_at_global(data: bytes, at: int) -> tuple[int, int]:
    lines = data[at + 1 : at + 300].split(b"\n")
    if lines[:2] != [b"_codecs", b"encode"]:
        _refuse(f"it asks for {ascii(b'.'.join(lines[:2]).decode('latin1'))[1:-1]}")
    return 1 + len(b"_codecs\nencode\n"), 0


def _look_at_other(data: bytes, at: int) -> NoReturn:
    name = NAMES.get(data[at], f"instruction {data[at]}")
    _refuse(f"it asks for {_asked_for(data[:at])}" if name == "STACK_GLOBAL" else f"it asks for {name} at byte {at}")


CODES = {op.name: op.code.encode("latin1")[0] for op in pickletools.opcodes}
NAMES = {code: name for name, code in CODES.items()}
STOP = CODES["STOP"]
STARTS = {  # where the text of an instruction begins, its length standing before it
    CODES[name]: 1 + width
    for width, names in {
        1: "LONG1 SHORT_BINSTRING SHORT_BINBYTES SHORT_BINUNICODE",
        4: "BINSTRING BINBYTES BINUNICODE",
        8: "BINUNICODE8 BINBYTES8 FRAME",
    }.items()
    for name in names.split()
}
SIZES = {
    CODES[name]: size
    for size, names in {
        1: "STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM "
        "SETITEMS MEMOIZE REDUCE",
        2: "PROTO BININT1 BINGET BINPUT",
        3: "BININT2",
        5: "BININT LONG_BINGET",
        9: "BINFLOAT",
    }.items()
    for name in names.split()
}
LOOKS: dict[int, Callable[[bytes, int], tuple[int, int]]] = {
    **dict.fromkeys(STARTS, _look_at_text),
    **dict.fromkeys([CODES[name] for name in ("FLOAT", "STRING", "UNICODE")], _look_at_line),
    **dict.fromkeys([CODES[name] for name in ("INT", "LONG", "GET")], _look_at_digits),
    # Bytes, as Python 3 writes them in protocols 0 to 2: GLOBAL, TUPLE, REDUCE.
    **dict.fromkeys([CODES[name] for name in ("TUPLE", "TUPLE2")], _look_at_tuple),
    CODES["GLOBAL"]: _look_at_global,
    CODES["PUT"]: _look_at_put,
    CODES["LONG_BINPUT"]: _look_at_long_put,
    CODES["LONG1"]: _look_at_long,
    CODES["FRAME"]: _look_at_frame,
}
COSTS = dict.fromkeys((*SIZES, *LOOKS), ITEM) | {
    CODES[name]: ITEM + CONTAINER for name in ("EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT")
}
BYTES_FOLLOW = re.compile(rb".(?:q.|r.{4}|p\d+\n)?R", re.DOTALL)  # a tuple, perhaps remembered, and the call with it


def _asked_for(before: bytes) -> str:
    """The class or function that the instruction after `before` asks for: mostly the last two texts."""
    texts = re.findall(rb"\x8c.([A-Za-z_][\w.]*)", before[-500:], re.DOTALL)
    return b".".join(texts[-2:]).decode("latin1") or "a class or function"


def check_nesting(found: object, most: int) -> None:
    """Raise UnpicklingError for data nested more than MOST_DEEP, or that would be far more than `most` entries if what
    is referred to several times were written several times."""
    level: list[object] = [found]
    left = most + 100_000
    for _ in range(MOST_DEEP):
        below: list[object] = []
        for outer in level:
            if isinstance(outer, dict | list):
                left -= len(outer)
                if left < 0:
                    _refuse("it refers to the same things too often")
                inner = outer.values() if isinstance(outer, dict) else outer
                below += [x for x in inner if isinstance(x, dict | list)]
        if not below:
            return
        level = below
    _refuse(f"it is nested more than {MOST_DEEP} deep")


def _refuse(why: str) -> NoReturn:
    raise pickle.UnpicklingError(why)

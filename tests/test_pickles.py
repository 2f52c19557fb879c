"""Pickles that are built to take memory or time: each is refused in one line or read, within bounds."""

import json
import pickle
import pickletools
import struct
import time
import tracemalloc

import pytest

from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.types import UserError
from tests.conftest import shared

MANY = 50_000


def number(form, value):
    return struct.pack(f"<{form}", value)


def many(instructions, times=MANY):
    return b"(" + instructions * times + b"l."


def share(step, times, inner=b"]q\x00"):
    """A list that holds `step` times the one below, and so on."""
    return inner + b"".join(b"](" + b"h\x00" * step + b"eq\x00" for _ in range(times)) + b"."


KEYS = b"".join(b"(" + b"".join(b"h" + bytes([n >> k & 1]) for k in range(16)) + b"tN" for n in range(20_000))
LATIN = b"c_codecs\nencode\nq\x00X" + number("I", MANY) + b"a" * MANY + b"X\x06\x00\x00\x00latin1\x86q\x01R0"

REFUSED = {
    "place 2 billion": b"]r\xff\xff\xff\x7f.",
    "place 4 billion": b"]r\xff\xff\xff\xff.",
    "place beyond its bytes": b"]r\x00\x00\x00\x01.",
    "place in digits": b"]p999999999\n.",
    "place in more digits": b"]p99999999999999999999999999999999\n.",
    "place below zero": b"]p-1\n.",
    "place of no digits": b"]p1e9\n.",
    "text of 2 GB": b"X\xff\xff\xff\x7fabc.",
    "text of 4 GB": b"X\xff\xff\xff\xffabc.",
    "text of 2^60": b"\x8d" + number("Q", 2**60) + b"abc.",
    "text of 2^64": b"\x8d" + b"\xff" * 8 + b"abc.",
    "text of one letter more": b"X\x04\x00\x00\x00abc",
    "old text of 2 GB": b"T\xff\xff\xff\x7fabc.",
    "old text of -1": b"T\xff\xff\xff\xffabc.",
    "bytes of 4 GB": b"B\xff\xff\xff\xffabc.",
    "bytes of 2^60": b"\x8e" + number("Q", 2**60) + b"abc.",
    "byte array of 2^40": b"\x96" + number("Q", 2**40) + b"abc.",
    "byte array of 50 GB": b"\x96" + number("Q", 50 * 2**30) + b"abc.",
    "number of 2 GB": b"\x8b\xff\xff\xff\x7f\x01.",
    "number of 200 bytes": b"\x8a\xc8" + b"\x01" * 200 + b".",
    "number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "long of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "frame of 2^62": b"\x80\x04\x95" + number("Q", 2**62) + b"].",
    "frame beyond the file": b"\x80\x04\x95" + number("Q", 100) + b"].",
    "buffer of another process": b"\x97.",
    "dicts without end": many(b"}", 300_000),
    "lists without end": many(b"]", 300_000),
    "sets without end": many(b"\x8f"),
    "frozen sets": many(b"(\x91"),
    "tuples": many(b"N\x85"),
    "empty tuples": many(b")"),
    "keys of one hash": b"\x80\x02J\xff\xff\xff\xffq\x000J\xfe\xff\xff\xffq\x010}(" + KEYS + b"u.",
    "lists in lists": b"]" * MANY + b"a" * (MANY - 1) + b".",
    "dicts in dicts": b"".join(b"}K\x00" for _ in range(MANY)) + b"N" + b"s" * MANY + b".",
    "tuples in tuples": b"]" + b"\x85" * MANY + b".",
    "a list in itself": b"]q\x00h\x00a.",
    "a dict in itself": b"}q\x00K\x01h\x00s.",
    "ten times the same, thirty deep": share(10, 30),
    "a thousand times the same, three deep": share(1000, 3),
    "twice the same, ninety deep": share(2, 90),
    "a long list in itself many times": share(1000, 1, b"](" + b"K\x01" * 10_000 + b"eq\x00"),
    "text to bytes, again and again": LATIN + b"h\x00h\x01R0" * MANY + b"].",
    "marks without end": b"(" * 200_000,
    "stack that is empty": b"0" * 200_000 + b".",
    "a place where nothing is": b"j\xff\xff\xff\xff.",
    "no instruction": b"\xff\xfe\xfd",
    "nothing": b"",
    "no end": b"](K\x01" + b"K\x01" * 1000,
    "extension": b"\x84\xff\xff\xff\x7f.",
    "object": b"(c_codecs\nencode\no.",
    "state of the codec": b"c_codecs\nencode\n}b.",
    "persistent": b"Pabc\n.",
    "no number, with a line break": b"Fa b\x1b[31m\r\n.",
}  # fmt: skip
READ = {
    "the same thing 100,000 times": many(b"2", 100_000).replace(b"(2", b"(N2", 1),
    "200,000 small numbers": many(b"K\x07", 200_000),
    "keys that are numbers": b"}(" + b"".join(b"J" + number("i", n) + b"N" for n in range(60_000)) + b"u.",
    "long text": b"X" + number("I", 1_000_000) + b"a" * 1_000_000 + b".",
    "long text of four bytes a letter": b"X" + number("I", 1_000_004) + "🙂".encode() + b"a" * 1_000_000 + b".",
    "ninety lists in lists": b"]" * 90 + b"a" * 89 + b".",
}


def bounded(path, content):
    """What became of a pickle, within ten times its size and 50 MB, and within ten seconds."""
    path.write_bytes(content)
    tracemalloc.start()
    started = time.process_time()
    try:
        found = read_plain_pickle(path)
    except UserError as error:
        found = error
    peak, took = tracemalloc.get_traced_memory()[1], time.process_time() - started
    tracemalloc.stop()
    assert peak <= 10 * len(content) + 50 * 2**20, f"{peak / 2**20:.0f} MB"
    assert took < 10
    return found


@pytest.mark.parametrize("content", REFUSED.values(), ids=list(REFUSED))
def test_hostile_pickles_are_refused_in_one_line(tmp_path, content):
    found = bounded(tmp_path / "refs(unc).p", content)
    assert isinstance(found, UserError) and "was refused: " in str(found), found
    assert str(found).isprintable() and len(str(found)) < 500


@pytest.mark.parametrize("content", READ.values(), ids=list(READ))
def test_large_ones_that_are_good_are_read(tmp_path, content):
    assert bounded(tmp_path / "refs(unc).p", content) == pickle.loads(content)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_data_comes_back_equal(tmp_path, protocol):
    data = [
        {"a": "größer 🙂", "b": [1, -1, 300, 70_000, 2**40, 2.5, None, True, False], "c": {"d": []}, 3: "\n'\""}
    ] * 2
    data[0]["bytes"] = b"\x00\xffabc"
    for content in (pickle.dumps(data, protocol), pickletools.optimize(pickle.dumps(data, protocol))):
        (tmp_path / "refs.p").write_bytes(content)
        assert read_plain_pickle(tmp_path / "refs.p") == data


def test_refs_as_refer_writes_them_are_their_json_twin():
    folder = shared("real_sample") / "refwritten"
    assert read_plain_pickle(folder / "refs(here).p") == json.loads((folder / "refs(here).json").read_text())


def test_the_class_that_is_asked_for_is_named(tmp_path):
    for protocol in (0, 2, 4, 5):
        (tmp_path / "refs.p").write_bytes(pickle.dumps([print], protocol))
        with pytest.raises(UserError, match=r"it asks for (__builtin__|builtins)\.print;"):
            read_plain_pickle(tmp_path / "refs.p")

"""Text as it may be drawn or printed: without control characters and escape sequences, and not too long."""

import re
import unicodedata

LONGEST = 10_000  # characters that are looked at where fewer are wanted
JOINERS = "\u200c\u200d"  # hold the parts of an emoji or of a word together, and show nothing of their own
SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
# What a terminal obeys: colours and moves of the cursor; titles and links up to their end; the rest.
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c)|\x1b[ -/]*[0-~]",
    re.DOTALL,
)


def clean(text: str, limit: int = 300) -> str:
    """A text of at most `limit` characters on one line. Line breaks of every kind become spaces, escape sequences and
    marks that turn the direction of writing are left out, other control characters and half surrogates become U+FFFD.
    What is plain already is only shortened."""
    if not text.isprintable():
        text = "".join(map(_shown, ESCAPES.sub("", shorten(text, max(limit, LONGEST)))))
    return shorten(text, limit)


def _shown(character: str) -> str:
    kind = unicodedata.category(character)
    if character in SPACES:
        return " "
    if kind in ("Cc", "Cs"):
        return "\ufffd"
    return "" if kind == "Cf" and character not in JOINERS else character


def shorten(text: str, limit: int) -> str:
    """A text of at most `limit` characters: of a longer one the beginning and the end, which often tells it apart."""
    if len(text) <= limit:
        return text
    tail = max(0, limit - 3) // 4
    return f"{text[: max(0, limit - 3 - tail)]} … {text[len(text) - tail :]}"[:limit]

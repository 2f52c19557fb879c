"""Text as it may be drawn or printed: without control characters and escape sequences, and not too long. And commands
as they may be printed: to be pasted into a shell.
"""

import difflib
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable

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


def did_you_mean(word: str, choices: Collection[str], cutoff: float = 0.6) -> str:
    """What an error says behind a word that is no choice: "did you mean NEAREST? ", or "" where none is near."""
    near = difflib.get_close_matches(word, [choice for choice in choices if choice != word], 1, cutoff)
    return f"did you mean {near[0]}? " if near else ""


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


def shell_command(words: Iterable[str]) -> str:
    """A command of these words on one line, to be pasted into a shell. All of it can be printed as it is."""
    return " ".join(map(shell_word, words))


def shell_word(text: str) -> str:
    """A text as one word of a shell: in quotes where it needs them. A line break and its like are written as bash and
    zsh read them, $'\\012'."""
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_spelled, text))}'"


def _spelled(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    return character if character.isprintable() else "".join(f"\\{byte:03o}" for byte in _bytes(character))


def _bytes(character: str) -> bytes:
    # Half surrogates are how Python holds the bytes of a file's name that are no UTF-8.
    return character.encode("utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass")

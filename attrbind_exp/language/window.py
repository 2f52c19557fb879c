"""From characters of a prompt to positions in a model's text window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Tokens:
    """One text in the window of L positions.

    `ids`: L token ids, special ones and padding among them; `offsets[i]`: the characters [start, end) that position i
    stands for, (0, 0) where it stands for none; `truncated`: whether the text is longer than the window.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    truncated: bool

    @property
    def content(self) -> tuple[int, ...]:
        """The positions that stand for characters."""
        return tuple(i for i, (start, end) in enumerate(self.offsets) if start < end)

    @property
    def end(self) -> int:
        """The position of the end token, which follows what stands for characters."""
        return max(self.content, default=0) + 1

    def at(self, start: int, end: int) -> tuple[int, ...]:
        """The positions that touch the characters [start, end)."""
        return tuple(i for i in self.content if self.offsets[i][0] < end and self.offsets[i][1] > start)


@dataclass(frozen=True)
class TextRequest:
    """A text that is to be encoded in another way than plainly.

    `layer`: the hidden state that the encoder's final norm is put on, 0 the input of its first layer, -1 the last one,
    which is the plain way; `hidden`: characters [start, end) that no other token may attend to. All tokens keep their
    places.
    """

    text: str
    layer: int | None = None
    hidden: tuple[tuple[int, int], ...] = ()


Text = str | TextRequest


class TextWindow(Protocol):
    """Places texts in a model's text window.

    A model with several text encoders has one window all the same: its positions are those of the embedding that
    cross-attention sees.
    """

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Every text in the window."""
        ...

    def words(self, text: str) -> list[str]:
        """What stands at each position that a text fills, for the eye."""
        ...


def as_slice(positions: Sequence[int]) -> slice | list[int]:
    """Positions as a slice where they follow each other: a list would have to be sent to the device."""
    first, last = positions[0], positions[-1]
    return slice(first, last + 1) if list(positions) == list(range(first, last + 1)) else list(positions)

"""Eight drawn pictures to begin with, each with an expression and a second one in which a word is swapped."""

from dataclasses import dataclass
from pathlib import Path

from attrbind_exp.paths import PACKAGE

FOLDER = PACKAGE / "assets" / "shapes" / "images"


@dataclass(frozen=True)
class Example:
    """A drawn picture by its file name, what to look for, and the same with one word swapped."""

    name: str
    expression: str
    swapped: str

    @property
    def path(self) -> Path:
        return FOLDER / self.name


# "Usual" and "rare" are colours with which a shape was often or seldom drawn when the model was trained.
EXAMPLES = (
    Example(
        "test_0242.jpg", "to the left of a red moon, the purple moon", "to the left of a purple moon, the red moon"
    ),
    Example("test_0187.jpg", "next to the yellow circle, the red circle", "next to the red circle, the yellow circle"),
    Example("test_0130.jpg", "the green heart below the blue heart", "the blue heart below the green heart"),
    Example("test_0010.jpg", "the white ring next to a yellow ring", "the yellow ring next to a yellow ring"),
    # Usual beside rare, and rare beside usual.
    Example(
        "test_0042.jpg", "to the left of a yellow ring, the black ring", "to the left of a black ring, the yellow ring"
    ),
    Example(
        "test_0000.jpg",
        "the orange circle to the left of a blue circle",
        "the blue circle to the left of a blue circle",
    ),
    # NCR alone makes this one worse.
    Example("test_0220.jpg", "above yellow star, the black star", "above black star, the yellow star"),
    # Nothing modifies the moon: the edits leave it as it is.
    Example("test_0015.jpg", "the moon", "the green ring on the right"),
)

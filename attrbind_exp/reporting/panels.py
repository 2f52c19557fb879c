"""What a gallery picture says of itself: its sample, its title, and which part of it shows what."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import msgspec

KEY = "attrbind_exp:panels"  # of the text chunk in the PNG

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Description:
    """The sample, the title, and each panel's name with the box that it fills."""

    sample_id: str | None
    title: str
    panels: Sequence[tuple[str, Box]]


def encode(description: Description) -> str:
    """The text that stands in the PNG under KEY; all of it ASCII, whatever the title holds."""
    return json.dumps(asdict(description))


def decode(text: str) -> Description:
    """A description from its text. Raises ValueError where it is none."""
    try:
        return msgspec.convert(json.loads(text), Description)
    except RecursionError as error:
        raise ValueError("nested too deeply for a description") from error

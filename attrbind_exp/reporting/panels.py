"""What a gallery picture says of itself: its sample, its title, and which part of it shows what."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, NoReturn

import msgspec

KEY = "attrbind_exp:panels"  # of the text chunk in the PNG

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
Colour = tuple[int, int, int]  # red, green, blue, 0 to 255
Threshold = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Description:
    """The sample, the title, and each panel's name with the box that it fills. `thresholds`: at which a panel
    shows a mask or classes, by its name; `classes`: what the colours of label maps mean."""

    sample_id: str | None
    title: str
    panels: Sequence[tuple[str, Box]]
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    classes: Sequence[tuple[str, Colour]] = ()


def encode(description: Description) -> str:
    """The text that stands in the PNG under KEY; all of it ASCII, whatever the title holds."""
    return json.dumps(asdict(description))


def decode(text: str) -> Description:
    """A description from its text. Raises ValueError where it is none."""
    try:
        return msgspec.convert(json.loads(text, parse_constant=_refuse), Description)
    except RecursionError as error:
        raise ValueError("nested too deeply for a description") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")

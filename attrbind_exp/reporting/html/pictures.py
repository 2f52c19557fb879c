"""Gallery pictures -> panels small enough to lie inside a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from attrbind_exp.reporting import panels
from attrbind_exp.reporting.html.comparison import Group
from attrbind_exp.reporting.panels import Colour, Description
from attrbind_exp.work import each

GALLERIES = ("gallery", "improved", "harmed")
MOST = 400  # samples whose pictures are shown or linked
SIDE = 480  # pixels at most, of a panel
QUALITY = 80  # of JPEG


@dataclass
class Picture:
    """One sample of a group: its `panels` as data URIs by name ("image", "ground truth", variants), the threshold of
    each that has one, the colours of `classes`, and the galleries that show it."""

    group: int
    sample_id: str
    title: str
    galleries: list[str] = field(default_factory=list)
    panels: dict[str, str] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    classes: dict[str, Colour] = field(default_factory=dict)


@dataclass
class Pictures:
    """Those that fit, how many there are, the names of files that are no pictures, and the files of those that do not
    fit, by group and sample."""

    shown: list[Picture]
    total: int
    broken: list[str]
    beside: dict[tuple[int, str], list[Path]] = field(default_factory=dict)


def read_pictures(groups: Sequence[Group], budget: int) -> Pictures:
    """Pictures until `budget` characters are spent, the first of every gallery first. What several runs drew of one
    sample becomes one picture."""
    found: dict[tuple[int, str], Picture] = {}
    broken: list[str] = []
    others: dict[tuple[int, str], list[Path]] = {}
    spent = 0
    for number, gallery, path, labels in each(_files(groups), "pictures of the page", "pictures"):
        try:
            with Image.open(path) as image:
                about = describe(image, path)
                key = number, str(about.sample_id)
                if key not in found and spent >= budget:
                    others.setdefault(key, []).append(path)
                    continue
                picture = found.setdefault(key, Picture(number, str(about.sample_id), about.title))
                for name, box in about.panels:
                    label = labels.get(name, name)
                    if label not in picture.panels:
                        picture.panels[label] = data_uri(image.crop(box))
                        spent += len(picture.panels[label])
                        if name in about.thresholds:
                            picture.thresholds[label] = about.thresholds[name]
                picture.classes |= dict(about.classes)
        except Exception:  # whatever is wrong with one picture, the page has the others
            broken.append(path.name)
            continue
        if gallery not in picture.galleries:
            picture.galleries.append(gallery)
    linked = dict(list(others.items())[: max(0, MOST - len(found))])
    return Pictures(list(found.values()), len(found) + len(others), broken, linked)


def _files(groups: Sequence[Group]) -> list[tuple[int, str, Path, dict[str, str]]]:
    """(group, gallery, file, column labels by variant) in the order in which they are taken."""
    found = []
    for number, group in enumerate(groups):
        for run in group.runs:
            labels = {c.entry.label: c.label for c in group.columns if c.run is run}
            for path in sorted((run.folder / "gallery").glob("*.png")):
                gallery, _, place = path.stem.rpartition("_")
                rank = GALLERIES.index(gallery) if gallery in GALLERIES else len(GALLERIES)
                found.append(((place, rank, number), (number, gallery or path.stem, path, labels)))
    return [entry for _, entry in sorted(found, key=lambda f: f[0])]


def describe(image: Image.Image, path: Path) -> Description:
    """What a gallery picture says of itself; one that says nothing is one panel. Raises ValueError where what it says
    makes no sense."""
    text = image.info.get(panels.KEY)  # stands before the pixels: nothing is decoded yet
    if text is None:
        return Description(path.stem, path.stem, [("picture", (0, 0, *image.size))])
    return panels.decode(text)


def data_uri(panel: Image.Image) -> str:
    """A picture as a JPEG that lies in the page, with colours as fine as its pixels: outlines are two pixels wide."""
    panel = panel.convert("RGB")
    panel.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    panel.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

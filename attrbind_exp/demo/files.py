"""The files that one can take away: picture, mask, heat, figure, and the command that makes the same again."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from attrbind_exp import __version__
from attrbind_exp.data.digests import digest_bytes
from attrbind_exp.demo import compute
from attrbind_exp.demo.compute import Compared, Seen
from attrbind_exp.demo.sent import in_words
from attrbind_exp.reporting import figures, maps
from attrbind_exp.runs.shown import clean, shell_command
from attrbind_exp.tasks.task import Panel
from attrbind_exp.types import HeatMap

CHOSEN = (
    "alpha",
    "alpha.value",
    "heatmap",
    "attention_layers",
    "threshold",
    "threshold.value",
    "text_processor.report",
)
MASK, HEAT, FIGURE, REPEAT = NAMES = "mask.png", "heat.npz", "figure.png", "repeat.yaml"
ALL = "all.zip"  # those and the picture
HEIGHT = 360  # pixels of a panel in the figure, as in the command segment


@dataclass(frozen=True)
class Choice:
    """What is chosen on the page: the number of a variant, and a threshold in steps of 0.01."""

    variant: int
    threshold: float


def write_file(
    name: str,
    compared: Compared,
    path: Path,
    seen: Sequence[Seen],
    choice: Choice,
    started_with: Sequence[str],
    folder: Path,
) -> Path:
    """Write one of NAMES, or ALL, of a choice into `folder`, at the picture's own size, and return its path.

    `path`: the picture's file; `started_with`: the arguments of the page that name the model and how it is read.
    """
    file = folder / name
    if name == ALL:
        made = [write_file(one, compared, path, seen, choice, started_with, folder) for one in NAMES]
        with zipfile.ZipFile(file, "w") as zipped:
            for source, inside in [*((one, one.name) for one in made), (path, picture_name(path))]:
                zipped.write(source, inside)
        return file
    if name == REPEAT:
        file.write_text(repeat_yaml(compared, path, seen, choice, started_with), encoding="utf-8")
        return file
    image = compute.open_limited(str(path))
    size = (image.height, image.width)
    heat = compute.heat_map(compared, seen[0], choice.variant, size)
    mask = HeatMap(heat).mask(choice.threshold)
    if name == MASK:
        figures.save_mask(mask, file)
    elif name == HEAT:
        others = [compute.heat_map(compared, one, choice.variant, size) for one in seen[1:]]
        second = {"heat_of_second": others[0], "difference": others[0] - heat} if others else {}
        arrays = {"heat": heat, "mask": mask, "threshold": np.array(choice.threshold), **second}
        np.savez_compressed(file, allow_pickle=False, **arrays)
    else:
        _write_figure(compared, image, seen[0], choice, mask, path.name, file)
    return file


def picture_name(path: Path) -> str:
    """What the picture is called beside the other files: its own name, unless that is one of theirs."""
    return f"picture_{path.name}" if path.name in NAMES else path.name


def _write_figure(
    compared: Compared, image: Image.Image, seen: Seen, choice: Choice, mask: np.ndarray, name: str, path: Path
) -> None:
    """Picture, the heat of every method at the chosen alpha in the chosen reading, and the mask, side by side."""
    size, chosen = (image.height, image.width), compared.variants[choice.variant]
    panels = {"image": Panel("photo")}
    for number in beside(compared, choice.variant):
        variant = compared.variants[number]
        panels[label(compared, number)] = Panel(
            "heat", compute.heat_map(compared, seen, number, size), choice.threshold
        )
        if variant is chosen:
            panels["mask"] = Panel("mask", mask, choice.threshold)
    about = f"{clean(name)}; {compared.reading(chosen)}; mask of {label(compared, choice.variant)}"
    pictures, around = maps.render(panels, image, about, HEIGHT)
    figures.panels(pictures, seen.prompt.parse.text, path, around=around, height=HEIGHT)


def beside(compared: Compared, variant: int) -> list[int]:
    """The variants that stand beside a chosen one: every method, read like it, at its alpha, else the one nearest to
    the chosen or the paper's."""
    found, chosen = compared.variants, compared.variants[variant]
    alpha = 0.9 if chosen.alpha is None else chosen.alpha
    alike = [n for n, v in enumerate(found) if (v.heatmap, v.layers) == (chosen.heatmap, chosen.layers)]
    methods = dict.fromkeys(found[n].method for n in alike)

    def distance(number: int) -> float:
        other = found[number].alpha
        return 0.0 if other is None else abs(other - alpha)

    return [min((n for n in alike if found[n].method == method), key=distance) for method in methods]


def label(compared: Compared, number: int) -> str:
    """Such as "NCR + UEA, alpha 0.9"."""
    variant = compared.variants[number]
    return in_words(variant) + ("" if variant.alpha is None else f", alpha {variant.alpha:g}")


def repeat_command(
    compared: Compared, picture: str, expression: str, choice: Choice, started_with: Sequence[str]
) -> list[str]:
    """The arguments of the command segment that makes the chosen mask again."""
    variant = compared.variants[choice.variant]
    own = [a for a in started_with if a.partition("=")[0] not in CHOSEN]
    layers = [a for a in started_with if a.startswith("attention_layers=")] if variant.layers is None else []
    return [
        f"image={picture}",
        f"expression={expression}",
        f"threshold={choice.threshold:g}",
        *own,
        *([] if variant.alpha is None else [f"alpha={variant.alpha:g}"]),
        f"heatmap=[{variant.heatmap or next(iter(compared.segmenter.methods))}]",
        *(layers or ([f"attention_layers={variant.layers}"] if variant.layers else [])),
        f"text_processor.report={variant.method}",
    ]


def repeat_yaml(
    compared: Compared, picture: Path, seen: Sequence[Seen], choice: Choice, started_with: Sequence[str]
) -> str:
    """What was chosen, and the command that repeats it beside the picture, as YAML."""
    variant, texts = compared.variants[choice.variant], [one.prompt.parse.text for one in seen]
    arguments = repeat_command(compared, picture_name(picture), texts[0], choice, started_with)
    said = {
        "command": shell_command(["python", "-m", "attrbind_exp.segment", *arguments]),
        "attrbind_exp": __version__,
        "picture": picture_name(picture),
        "picture_digest": digest_bytes(picture.read_bytes()),
        "expression": texts[0],
        "second_expression": texts[1] if len(texts) > 1 else None,
        "target": seen[0].prompt.parse.target_text,
        "noun_chunk": seen[0].prompt.parse.chunk_text,
        "edit": variant.method,
        "alpha": variant.alpha,
        "reading": compared.reading(variant),
        "threshold": choice.threshold,
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=1000)

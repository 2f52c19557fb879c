"""The expressions of a run whose maps were kept -> a matrix of pictures each: every reading under every edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from attrbind_exp import config
from attrbind_exp.data.dataset import by_image
from attrbind_exp.edits import Variant
from attrbind_exp.edits.variant import edits_label, is_floor
from attrbind_exp.reporting import matrix
from attrbind_exp.reporting.matrix import Cell, Matrix
from attrbind_exp.reporting.paper_tables import Run
from attrbind_exp.types import Sample, UserError
from attrbind_exp.work import each

SHOWN = 12  # expressions


@dataclass(frozen=True)
class Drawn:
    """A picture's file, the sample, and what it says."""

    file: Path
    sample: Sample
    iou: float


def choose(baseline: pd.Series) -> list[str]:
    """The expressions to show, from the IoU of the baseline by sample id: all of them in order, the hardest first, in
    SHOWN equal parts, of each the middle one. Equal ones stand in the order of their ids."""
    ordered = sorted(baseline.items(), key=lambda item: (item[1], str(item[0])))
    parts = min(SHOWN, len(ordered))
    return [str(ordered[(2 * part + 1) * len(ordered) // (2 * parts)][0]) for part in range(parts)]


def draw_matrices(run: Run, scores: pd.DataFrame, thresholds: Mapping[str, float], stem: Path) -> list[Drawn]:
    """A picture STEM_NN.png of each chosen expression of a run. `scores`: its paper_tables.expression_scores;
    `thresholds`: of each variant by label. Raises UserError where the run kept no maps."""
    if not (run.folder / "maps").is_dir():
        raise UserError(
            f"no maps were kept in '{run.folder}', so there are no pictures; run the sweep with keep_maps=true, or "
            "with keep_maps=true dataset.fraction=0.03 where the disk is small"
        )
    settings = config.read_settings(config.read_config(run.folder))
    ious = {label: _at(part, thresholds[label]) for label, part in scores.groupby("label") if label in thresholds}
    variants = [v for v in settings.run.variants if v.label in ious and not is_floor(v.label)]
    dataset = settings.load_dataset()
    samples = {s.sample_id: s for found in by_image(dataset).values() for s in found}
    drawn = []
    for number, chosen in enumerate(each(choose(ious[variants[0].label]), "drawing", "pictures"), start=1):
        file, sample = stem.with_name(f"{stem.name}_{number:02d}.png"), samples[chosen]
        cells = {label: (thresholds[label], float(of[chosen])) for label, of in ious.items()}
        matrix.write(expression_matrix(run.folder, settings, sample, variants, cells), file)
        drawn.append(Drawn(file, sample, float(ious[variants[0].label][chosen])))
    return drawn


def _at(scores: pd.DataFrame, threshold: float) -> pd.Series:
    """IoU in percent by sample id, at one threshold of the grid."""
    return 100 * scores.set_index("sample_id")[f"{threshold:.2f}"]


def expression_matrix(
    folder: Path,
    settings: config.Settings,
    sample: Sample,
    variants: Sequence[Variant],
    cells: Mapping[str, tuple[float, float]],
) -> Matrix:
    """One expression's heat maps of the first noise seed, made of kept maps. `cells`: threshold and IoU by label."""
    from attrbind_exp.evaluation.kept import KeptHeat  # torch loads when there is something to draw
    from attrbind_exp.evaluation.loading import read_files

    ((_, truth),) = (files := read_files([sample])).samples
    segmenter, reading = settings.segmenter, config.reading_of(config.read_config(folder))
    heat = KeptHeat(folder, sample.image_id, segmenter.make_methods(), segmenter.maps, reading)
    alone = next(iter(segmenter.make_methods()))  # what a run of a single reading does not name
    named = {(v.heatmap or alone, edits_label(v.edits)): v for v in variants}
    found = {key: Cell(heat(sample, v, 0), *cells[v.label]) for key, v in named.items()}
    readings, edits = (list(dict.fromkeys(key[part] for key in named)) for part in (0, 1))
    if truth is None:
        raise UserError(f"'{sample.sample_id}' has no mask any more; run the sweep again on the data that there is now")
    title = f'{sample.sample_id}: "{sample.text}"'
    return Matrix(title, files.pictures[sample.image_path], truth, readings, edits, found)

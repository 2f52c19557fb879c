"""The expressions of runs whose maps were kept -> a matrix of pictures each: every reading under every edit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from attrbind_exp import config
from attrbind_exp.data.dataset import by_image
from attrbind_exp.edits import Variant
from attrbind_exp.edits.variant import edits_label, is_floor
from attrbind_exp.reporting import matrix
from attrbind_exp.reporting.matrix import Cell, Matrix
from attrbind_exp.reporting.paper_tables import Run, expression_scores
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


def draw_matrices(runs: Sequence[Run], thresholds: Mapping[str, float], stem: Path) -> list[Drawn]:
    """A picture STEM_NN.png of each chosen expression of runs on the same data, whose variants are the rows and columns
    of one matrix; the first run measured the baseline. `thresholds`: of each variant by label. Raises UserError where a
    run kept no maps."""
    kept = [found for run in runs if (found := read_kept(run, thresholds)).variants]
    if not kept:
        raise UserError(
            f"no table has one threshold for each variant of '{runs[0].folder}', so there are no pictures; nothing was "
            "scored, or several runs measured the same variants, under other seeds perhaps"
        )
    ious = {label: iou for run in kept for label, iou in run.ious.items()}
    baseline = ious[kept[0].variants[0].label]
    dataset = kept[0].settings.load_dataset()
    samples = {s.sample_id: s for found in by_image(dataset).values() for s in found}
    drawn = []
    chosen = choose(baseline[baseline.index.isin(scored_by_all(kept))])
    for number, sample_id in enumerate(each(chosen, "drawing", "pictures"), start=1):
        file, sample = stem.with_name(f"{stem.name}_{number:02d}.png"), samples[sample_id]
        cells = {label: (thresholds[label], float(of[sample_id])) for label, of in ious.items()}
        matrix.write(expression_matrix(kept, sample, cells), file)
        drawn.append(Drawn(file, sample, float(baseline[sample_id])))
    return drawn


@dataclass(frozen=True)
class Kept:
    """A run whose maps were kept: its folder, its settings, the variants to show, and the IoU in percent of each by
    label, by sample id."""

    folder: Path
    settings: config.Settings
    variants: Sequence[Variant]
    ious: Mapping[str, pd.Series]


def read_kept(run: Run, thresholds: Mapping[str, float]) -> Kept:
    """Of a run what a matrix needs. Raises UserError where it kept no maps."""
    if not (run.folder / "maps").is_dir():
        raise UserError(
            f"no maps were kept in '{run.folder}', so there are no pictures; run the sweep with keep_maps=true, or "
            "with keep_maps=true dataset.fraction=0.03 where the disk is small"
        )
    settings, scores = config.read_settings(config.read_config(run.folder)), expression_scores(run).groupby("label")
    ious = {str(label): _at(part, thresholds[str(label)]) for label, part in scores if label in thresholds}
    variants = [v for v in settings.run.variants if v.label in ious and not is_floor(v.label)]
    return Kept(run.folder, settings, variants, ious)


def scored_by_all(runs: Sequence[Kept]) -> set[str]:
    """The sample ids that every variant of every run has an IoU of: not everything can be refined."""
    return set.intersection(*(set(map(str, iou.index)) for run in runs for iou in run.ious.values()))


def _at(scores: pd.DataFrame, threshold: float) -> pd.Series:
    """IoU in percent by sample id, at one threshold of the grid."""
    return 100 * scores.set_index("sample_id")[f"{threshold:.2f}"]


def expression_matrix(runs: Sequence[Kept], sample: Sample, cells: Mapping[str, tuple[float, float]]) -> Matrix:
    """One expression's heat maps of the first noise seed, made of kept maps. `cells`: threshold and IoU by label."""
    from attrbind_exp.evaluation.loading import read_files  # torch loads when there is something to draw

    ((_, truth),) = (files := read_files([sample])).samples
    if truth is None:
        raise UserError(f"'{sample.sample_id}' has no mask any more; run the sweep again on the data that there is now")
    found = {key: cell for run in runs for key, cell in _cells(run, sample, cells)}
    rows, edits = (list(dict.fromkeys(key[part] for key in found)) for part in (0, 1))
    title = f'{sample.sample_id}: "{sample.text}"'
    return Matrix(title, files.pictures[sample.image_path], truth, rows, edits, found)


def _cells(
    run: Kept, sample: Sample, cells: Mapping[str, tuple[float, float]]
) -> Iterator[tuple[tuple[str, str], Cell]]:
    """The cells of one run: their row and column, and what they show."""
    from attrbind_exp.evaluation.kept import KeptHeat

    segmenter, reading = run.settings.segmenter, config.reading_of(config.read_config(run.folder))
    methods, refinement = segmenter.make_methods(), run.settings.run.refinement
    heat = KeptHeat(run.folder, sample.image_id, methods, segmenter.maps, reading, refinement)
    for variant in run.variants:
        yield (
            (row_name(variant, next(iter(methods))), edits_label(variant.edits)),
            Cell(heat(sample, variant, 0), *cells[variant.label]),
        )


def row_name(variant: Variant, alone: str) -> str:
    """How a variant's maps were made, whatever was edited: "daam"; of two lines where latents were stepped on, "+
    syngen x1", or maps refined, "refine=guided_filter". `alone`: the reading of a run that has one, which labels do not
    name."""
    made = [f"+ {variant.latents}" if variant.latents else "", f"refine={variant.refine}" if variant.refine else ""]
    return "\n".join([variant.heatmap or alone, *filter(None, made)])

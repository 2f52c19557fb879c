"""Runs made by hand: summaries and rows of which tests know every figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrbind_exp.runs.rows import ExpressionRow, Row, encode_rows
from attrbind_exp.runs.summary import Summary, encode_summary
from attrbind_exp.scoring.figures import VariantFigures
from attrbind_exp.scoring.metrics import GRID, PRECISIONS, key

Name = tuple[str, float | None]  # of a variant: text_processor and alpha


def label(variant: Name) -> str:
    return variant[0] if variant[1] is None else f"{variant[0]} alpha={variant[1]:g}"


def variant_figures(variant: Name, mIoU_at: float | Mapping[str, float], n: int, **more) -> VariantFigures:
    """A variant's figures: `mIoU_at` by threshold of the grid, or the same at all of them; it stands at its best."""
    at = mIoU_at if isinstance(mIoU_at, Mapping) else {key(k): mIoU_at for k in GRID}
    best = max(at, key=lambda k: at[k])
    given = {
        "text_processor": variant[0],
        "alpha": variant[1],
        "label": label(variant),
        "mIoU": at[best],
        "threshold": float(best),
        "mIoU_at": at,
        "oIoU": at[best],
        "precision": {f"{p:g}": 0.0 for p in PRECISIONS},
        "n": n,
    }
    return VariantFigures(**given | more)


def make_summary(variants: Sequence[VariantFigures], headline: int = -1, **more) -> Summary:
    """The summary of a run over all expressions of its variants, headed by one of them."""
    head, n = variants[headline], variants[headline].n
    given = {
        "text_processor": head.text_processor, "alpha": head.alpha, "mIoU": head.mIoU, "threshold": head.threshold,
        "headline": headline % len(variants), "scored": "expressions", "n": n, "n_scored": n, "n_unscored": 0,
        "n_failed": 0, "failures": {}, "n_fallback": {}, "n_bound": n, "seconds": 1.5, "dataset": "drawn",
        "split": "test", "model": "m", "model_name": "sd15", "captioner": "none", "note": None, "overrides": [],
        "config_hash": "0" * 12, "version": "0.1.0",
    }  # fmt: skip
    return Summary(variants=list(variants), **given | more)


def expression_row(variant: Name, sample_id: str, iou: float | Mapping[str, float], **more) -> ExpressionRow:
    """A row whose IoU, 0 to 1, is given by threshold of the grid, or the same at every threshold."""
    at = dict(iou) if isinstance(iou, Mapping) else {key(k): iou for k in GRID}
    level = 0.0 if isinstance(iou, Mapping) else iou
    given = {
        "sample_id": sample_id, "image_id": f"i{sample_id}", "text_processor": variant[0], "alpha": variant[1], "seed": 0,
        "expression": f"expression {sample_id}", "prompt": "a photograph of it", "target": "it", "chunk": "it",
        "bound": True, "fallbacks": (), "slices": {}, "iou_at": at, "intersection": [round(100 * level)] * 101,
        "union": [100] * 101,
    }  # fmt: skip
    return ExpressionRow(**given | more)


def write_files(folder: Path, summary: Summary, rows: Sequence[Row] = ()) -> Path:
    """A finished run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(encode_summary(summary))
    (folder / "expressions.jsonl").write_bytes(encode_rows(rows))
    (folder / "failures.jsonl").write_text("")
    return folder

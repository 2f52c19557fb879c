"""What the rows of every task have in common: how the words were read, and under which variant and seed."""

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import msgspec

from attrbind_exp.edits import Variant
from attrbind_exp.runs.rows import ExpressionRow, ImageRow, PromptColumns, Row
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Prompt, UserError

RowKind = TypeVar("RowKind", ExpressionRow, ImageRow)


def prompt_columns(prompt: Prompt) -> PromptColumns:
    """How an expression was read."""
    return PromptColumns(
        prompt=prompt.text,
        target=prompt.parse.target_text,
        chunk=prompt.parse.chunk_text,
        bound=prompt.bind,
        fallbacks=list(prompt.fallbacks),
    )


def under_variant(row: RowKind, variant: Variant, seed: int) -> RowKind:
    """The row under another variant and noise seed."""
    return msgspec.structs.replace(
        row,
        text_processor=variant.name,
        alpha=variant.alpha,
        attention_layers=variant.layers,
        heatmap=variant.heatmap,
        seed=seed,
    )


def cells(settings: RunSettings) -> list[tuple[int, int]]:
    """Numbers of variant and seed in the order of rows."""
    return list(product(range(len(settings.variants)), range(len(settings.seeds))))


def check_complete(rows: Sequence[Row], settings: RunSettings) -> None:
    """Raise UserError where an expression or image has not one row a variant and seed."""
    wanted = len(settings.variants) * len(settings.seeds)
    if len(rows) != wanted:
        name = getattr(rows[0], "sample_id", rows[0].image_id)
        raise UserError(
            f"the rows of '{name}' are {len(rows)}, not one for each of {len(settings.variants)} variants and "
            f"{len(settings.seeds)} seeds; remove the run's folder and start it again"
        )

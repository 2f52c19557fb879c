"""The page of pictures beside that of readings and edits: twelve expressions of a sweep under all its variants."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from attrbind_exp.commands.matrices import Drawn, draw_matrices
from attrbind_exp.log import log
from attrbind_exp.reporting.methods_tables import Compared, thresholds
from attrbind_exp.types import UserError

PICTURES = """# Readings and edits on twelve expressions

Each picture is one expression of the last split under every reading (rows) and edit (columns) of a sweep: the heat
from 0 (dark) to 1 (bright), the outline of its mask (orange) and of the true mask (white), and below it the IoU at the
variant's threshold, that of the [tables](methods.md). **Nobody chose them:** the expressions stand in the
order of the baseline's IoU, the hardest first, in twelve equal parts, and of each part the middle one is drawn. Where
latents were stepped on or heat maps refined, the rows are one reading with and without that; refined rows show what
the picture's edges or masks of another program made of a map."""

TITLES = {
    "edits": "edits of the text embedding",
    "methods": "ways of reading attention",
    "methods_costly": "readings that cost many passes",
    "methods_steps": "steps on the noisy latents",
    "methods_refined": "refined heat maps",
    "methods_tuned": "with constants tuned on val",
}
ROWS = {"methods_steps": "with and without a step on the latents", "methods_refined": "as read and refined"}
WITHOUT = "edits"  # the sweep of so many edits that a matrix would have no room for them


def draw_pictures(sweeps: Mapping[str, Compared], images: Path) -> Iterator[str]:
    """The paragraphs of the pictures of each sweep's last split, whose files go to `images`; where a run kept no maps,
    a warning says how to get them."""
    for name in (name for name in TITLES if name in sweeps and name != WITHOUT):
        compared = sweeps[name]
        summary = compared.last.summary
        if summary.scored != "expressions":
            continue
        try:
            drawn = draw_matrices(compared.all_last, thresholds(compared), images / f"{name}_maps_{compared.data}")
        except UserError as error:
            log.warning(f"WARNING: {error}")
            continue
        yield f"## {summary.dataset}, {summary.model_name}: {TITLES[name]}"
        for number, picture in enumerate(drawn, start=1):
            yield _picture(number, picture, ROWS.get(name, "of every reading"))


def _picture(number: int, drawn: Drawn, rows: str) -> str:
    text = drawn.sample.text.replace("[", "(").replace("]", ")")
    alt = f"{text}: heat maps {rows} under every edit; the baseline's IoU is {drawn.iou:.0f}"
    return f"### {number}. {text}\n\n![{alt}](images/{drawn.file.name})"

"""The page of the sweeps that compare readings and edits: short tables, pictures, cost, and the whole tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from attrbind_exp import config
from attrbind_exp.commands.methods_pictures import PICTURES, TITLES, draw_pictures
from attrbind_exp.edits.variant import BASELINE, has_latent_steps, split_reading
from attrbind_exp.reporting import by_reading, plots
from attrbind_exp.reporting.cost_plot import Point, cost_plot
from attrbind_exp.reporting.costs import NAME as COSTS
from attrbind_exp.reporting.costs import Cost, Costs, read_costs
from attrbind_exp.reporting.made_with import fact_line
from attrbind_exp.reporting.methods_tables import (
    Compared,
    beside,
    marked_rows,
    more_than_plain,
    read_compared,
    split_tables,
    thresholds,
)
from attrbind_exp.reporting.paper_tables import expression_scores
from attrbind_exp.reporting.references import without_floors
from attrbind_exp.reporting.refined import PLAIN, by_refinement
from attrbind_exp.reporting.sentences import sentences
from attrbind_exp.reporting.tables import markdown
from attrbind_exp.runs.index import read_sweep
from attrbind_exp.runs.store import write_text
from attrbind_exp.scoring.compare import PERCENT, estimate
from attrbind_exp.scoring.references import PROPOSALS
from attrbind_exp.types import UserError

INTRO = """# Readings and edits compared

Which way of reading attention, and which edit of the words, finds best what an expression names? Everything below is
scored alike: the same pictures, noise, words and parses, thresholds chosen on val and held out on test, paired
differences with 95 % intervals over images; * survives Holm's correction over all comparisons of its table. `make
methods` fills this page. It is measured with **the bundled model on drawn shapes**, an instrument that has never seen
a photograph: what stands here says nothing yet of Stable Diffusion, for which the same sweeps run with
`dataset.root=DIR` in place of `dataset=shapes model=bundled`. Constants are their authors', made for Stable Diffusion
at 512 pixels, where no table says otherwise. All readings suffer from that but DiffSegmenter, whose weights and
timestep come with the bundled model; tuned constants have a table of their own. What a reading does, and where it
departs from its authors' code, stands in [readings](readings.md); what an edit does in [edits](edits.md)."""

READINGS = """One line a reading under the plain prompt, the best first
({part}).
`{way}`: from the highest floor, the mask of all objects, to the ceiling of the map's grid. Passes: what the reading
alone costs an expression, in bare conditional passes of the model."""
EDITS = """One line an edit under the reading of the first row of its table, the best first
({part}). An edit costs a pass more."""
COSTLY = """These cost many passes an expression, so they are measured on a part of the images and compared with the
baseline of that part alone ({part})."""
STEPS = """One [gradient step on the noisy latents](latent-steps.md) before DiffSegmenter reads them, on a part of the
images ({part}). `ratio`: how much coarser than the latents the attention is that the loss sees, 4 where none is named;
2 was chosen on val. A difference is to the prompt without edit under the same steps."""
TUNED = """[Constants searched](tune.md) on val, never on test (`sweep=tune`), beside their authors'. Differences are to
the first row."""
REFINED = """A [refinement](refinement.md) changes heat maps after they are read and before they are scored, by what
attention does not know: the picture's edges, or masks that something else proposes. So these figures stand apart, a
table for each refinement, and are no figures of a reading ({part}).
A difference is to the prompt without edit, refined alike. The ceiling of the map's grid is that of maps which know no
edges; refined ones may lie above it."""
ADDED = (
    """What {what}: each variant beside the same one of the same sweep without it, each at its own threshold{best}."""
)
BEST = ", chosen on these very expressions where no other split could choose it"
MASKS = """`refdiff_heat` chooses among masks that were there before; the ceiling of the proposals is the best choice.
Whose masks they are decides the figure: those of `make methods` are cut out of the pictures **by no trained model**
([how](refinement.md#proposals-of-pictures-alone))."""


@dataclass(frozen=True)
class Page:
    """Where a page goes, and what the readings cost (None where no file says it)."""

    file: Path
    costs: Costs | None

    @property
    def images(self) -> Path:
        """The folder of its pictures."""
        return self.file.parent / "images"

    @property
    def readings(self) -> Mapping[str, Cost]:
        """The cost of readings by name."""
        return {} if self.costs is None else self.costs.readings


def find_compared(outputs: Path) -> dict[str, dict[str, Compared]]:
    """The sweeps that finished below a folder: by data and model, then by name. Raises UserError where there is
    none."""
    found: dict[str, dict[str, Compared]] = {}
    for file in sorted(outputs.glob("*/*/results.md")):
        if file.parent.parent.name in TITLES:
            found.setdefault(file.parent.name, {})[file.parent.parent.name] = read_compared(file.parent)
    if not found:
        raise UserError(f"no sweep of {', '.join(TITLES)} below '{outputs}'; run one first: make methods")
    return found


def write_page(outputs: Path, file: Path) -> list[Path]:
    """Write the page, the page of pictures beside it (FILE-pictures.md), and their images. The pages' files."""
    found = find_compared(outputs)
    page = Page(file, read_costs(file.parent / COSTS))
    page.images.mkdir(parents=True, exist_ok=True)
    pictures = {data: list(draw_pictures(sweeps, page.images)) for data, sweeps in found.items()}
    parts = [INTRO]
    for data, sweeps in found.items():
        # Headings of several models and data must differ.
        parts += _sections(page, sweeps, f": {data}" if len(found) > 1 else "", bool(pictures[data]))
    write_text(file, "\n\n".join(parts) + "\n")
    drawn = [text for texts in pictures.values() for text in texts]
    if not drawn:
        return [file]
    beside_it = file.with_name(f"{file.stem}-pictures.md")
    write_text(beside_it, "\n\n".join([PICTURES.replace("methods.md", file.name), *drawn]) + "\n")
    return [file, beside_it]


def _sections(page: Page, sweeps: Mapping[str, Compared], of: str, drawn: bool) -> Iterator[str]:
    """What the page says of one model and data, paragraph by paragraph."""
    methods, edits = sweeps.get("methods"), sweeps.get("edits") or sweeps.get("methods")
    if methods:
        yield f"## Readings{of}"
        yield READINGS.format(way=by_reading.WAY, part=_part(methods))
        yield markdown(by_reading.readings(methods.table, page.readings))
        yield from _cost(page, methods)
        if drawn:
            yield f"What they look like: [twelve expressions]({page.file.stem}-pictures.md)."
    if edits:
        yield f"## Edits{of}"
        yield EDITS.format(part=_part(edits))
        yield markdown(by_reading.edits(edits.table))
    for name in ("methods_costly", "methods_steps", "methods_tuned"):
        if name in sweeps:
            yield from _apart(sweeps[name], name, of, methods)
    if "methods_refined" in sweeps:
        yield from _refined(sweeps["methods_refined"], of)
    yield f"## Whole tables{of}"
    yield "What stands above, and everything else that was measured: all variants on all splits."
    for name, compared in sweeps.items():
        yield from _whole(page, compared, name, of)


def _apart(compared: Compared, name: str, of: str, methods: Compared | None) -> Iterator[str]:
    """A table of its own: of readings that were measured on a part, or with tuned constants."""
    title = TITLES[name]
    yield f"## {title[0].upper()}{title[1:]}{of}"
    if name == "methods_tuned" and methods:
        yield TUNED
        yield beside(compared.table, methods.table)
        return
    said = {"methods_costly": COSTLY, "methods_steps": STEPS, "methods_tuned": TUNED}[name]
    yield said.format(part=_part(compared))
    yield split_tables(compared.table[compared.table["split"] == compared.last.split])[0][1]
    if name == "methods_steps":
        yield from _added(compared, "a step adds")


def _refined(compared: Compared, of: str) -> Iterator[str]:
    """A table for each refinement of the last split, and what it adds to the plain maps of the same sweep."""
    yield f"## Refined heat maps{of}"
    yield REFINED.format(part=_part(compared))
    for kind, part in by_refinement(compared.table).items():
        last = part[part["split"] == compared.last.split]
        heading, table = split_tables(last)[0]
        yield f"**{kind or PLAIN}, {heading}**"
        yield table
        if PROPOSALS in set(last["variant"]):
            yield MASKS
    yield from _added(compared, "refining adds")


def _added(compared: Compared, what: str) -> Iterator[str]:
    """What stepping on latents or refining adds, where the sweep has the same variants without it."""
    more = more_than_plain(compared.all_last, thresholds(compared))
    if len(more):
        last = without_floors(compared.table[compared.table["split"] == compared.last.split])
        yield ADDED.format(what=what, best=BEST if last["threshold held out"].isna().any() else ", held out")
        yield markdown(more)


def _part(compared: Compared) -> str:
    """Which part of the images a sweep's runs took."""
    plain = compared.all_last[0]  # what cannot be refined is said where that is
    dataset = config.read_config(plain.folder).dataset
    given = {key: dataset.get(key) for key in ("fraction", "limit")}
    said = [f"dataset.{key}={value:g}" for key, value in given.items() if value is not None]
    return f"{', '.join(said) or 'all images'}; {plain.summary.n_scored} expressions of {plain.split}"


def _whole(page: Page, compared: Compared, name: str, of: str) -> Iterator[str]:
    """A sweep's command, forest plot, tables and what they say."""
    title = TITLES[name]
    yield f"### {title[0].upper()}{title[1:]}, whole{of}"
    if command := read_sweep(compared.folder).command:
        yield f"    {command}"
    yield f"![{title}: differences to the baseline](images/{_forest(page, compared, name).name})"
    for kind, part in by_refinement(compared.table).items():
        for heading, table in split_tables(part):
            yield f"**{f'{kind}, ' if kind else ''}{heading}**"
            yield table
        yield " ".join(sentences(part))
    yield fact_line([run.summary for run in compared.runs])


def _forest(page: Page, compared: Compared, name: str) -> Path:
    """The plot of differences; beside each row its cost, and the mark of those that survive Holm's correction."""
    marked = (row for part in by_refinement(compared.table).values() for row in marked_rows(part))
    rows = [row for row in marked if row["split"] == compared.last.split]
    costs = {row["variant"]: page.readings.get(_reading(compared, row["variant"])) for row in rows}
    said = {row["variant"]: f"{_passes(costs[row['variant']])}{row['mark']}" for row in rows}
    counted = any(cost and cost.measured is None for cost in costs.values())
    passes = "passes (counted)" if counted else "passes"
    head = f"{passes}, * Holm" if any(costs.values()) else "* Holm"
    summary = compared.last.summary
    title = TITLES[name][0].upper() + TITLES[name][1:]
    data = ", ".join(dict.fromkeys(run.summary.dataset for run in compared.runs))
    file = page.images / f"{name}_{compared.data}.png"
    return plots.differences(without_floors(compared.table), title, data, summary.model_name, file, beside=(head, said))


def _passes(cost: Cost | None) -> str:
    """Beside a row: the passes, in brackets where they were counted and not measured."""
    if cost is None:
        return ""
    return f"({cost.counted:.2f})" if cost.measured is None else f"{cost.measured:.2f}"


def _reading(compared: Compared, label: str) -> str:
    """The reading of a variant; that of the run where labels name none. "" under latent steps, which are passes of
    their own."""
    if has_latent_steps(label):
        return ""
    named = split_reading(label)[1]
    return named or str(next(iter(config.read_config(compared.last.folder).heatmap)))


def _cost(page: Page, methods: Compared) -> Iterator[str]:
    """The plot of cost and mIoU, and where the cost was measured."""
    if page.costs is None:
        yield f"No {COSTS} beside this page says what readings cost: `python benchmarks/readings.py --alone --out FILE`"
        return
    scores = expression_scores(methods.last)
    points = {}
    for label, threshold in thresholds(methods).items():
        edit, reading = split_reading(label)
        cost = page.readings.get(reading or "")
        part = scores[scores["label"] == label]
        if edit == BASELINE and cost and len(part):
            found = estimate(100 * part[f"{threshold:.2f}"], part["image_id"].to_numpy(), PERCENT)
            points[reading or ""] = Point(cost.known, found, measured=cost.measured is not None)
    if points:
        file = page.images / f"methods_cost_{methods.data}.png"
        summary = methods.last.summary
        cost_plot(points, f"data {summary.dataset}; model {summary.model_name}", file)
        yield f"![mIoU of each reading beside its cost](images/{file.name})"
        hollow = "" if all(point.measured for point in points.values()) else " Hollow: counted, not measured."
        yield f"Cost measured on {page.costs.machine}: `{page.costs.command}`.{hollow}"

"""A run or a sweep as one HTML page that needs nothing else: figures, curves, expressions, heat maps, provenance."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from attrbind_exp.reporting import maps
from attrbind_exp.reporting.html import provenance, script_data, sections
from attrbind_exp.reporting.html.answer import Answer, answers
from attrbind_exp.reporting.html.collect import Measured
from attrbind_exp.reporting.html.comparison import Group
from attrbind_exp.reporting.html.expressions import choose
from attrbind_exp.reporting.html.pictures import Pictures, read_pictures
from attrbind_exp.reporting.html.slices import SliceRow, binding_rows, slice_rows
from attrbind_exp.reporting.made_with import difference_line
from attrbind_exp.reporting.paper_tables import PAPER_LINE
from attrbind_exp.runs.shown import clean

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("charts.js", "gallery.js", "view.js", "report.js")  # one script in this order
ROWS = 2_000_000  # characters of rows, one an expression, of all groups together
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # and what turns the direction of writing
PICTURES = 2_500_000  # characters of inlined pictures


@dataclass(frozen=True)
class Page:
    """What the template shows, and `data` for the page's script."""

    title: str
    folder: Path
    groups: Sequence[Group]
    answers: Sequence[Answer]
    headlines: Sequence[sections.Headline]
    results: sections.Results | None
    paper: str
    slices: Sequence[Sequence[SliceRow]]
    binding: Sequence[Sequence[SliceRow]]
    pictures: Pictures
    data: script_data.PageData
    runs: Sequence[provenance.RunRow]
    others: Sequence[provenance.Link]
    commands: provenance.Commands
    settings: provenance.Settings
    made_with: provenance.MadeWith
    differ: str
    failures: Sequence[provenance.Failed]
    not_drawn: provenance.LeftOut
    notes: Sequence[str]
    versions: Sequence[str]


def make_page(measured: Measured) -> str:
    """The page of a run's or a sweep's folder."""
    groups, parts, results, of = measured.groups, measured.parts, measured.results, measured.runs
    heads = [sections.head(g, part) for g, part in zip(groups, parts, strict=True)]
    pictures = read_pictures(groups, PICTURES)
    return render(
        Page(
            title=measured.spec.title or measured.folder.name,
            folder=measured.folder,
            groups=groups,
            answers=answers(groups, measured.between) if groups else [],
            headlines=[sections.headline(g, part) for g, part in zip(groups, parts, strict=True)],
            results=None if results is None else sections.shown_results(measured.between, measured.spec),
            paper="" if measured.published else PAPER_LINE,
            slices=[slice_rows(g) for g in groups],
            binding=[binding_rows(g) for g in groups],
            pictures=pictures,
            data=_data(measured, heads, pictures),
            runs=provenance.runs(of, measured.folder),
            others=[provenance.link(folder, measured.folder) for folder in of.others],
            commands=provenance.commands(of, measured.folder),
            settings=provenance.settings(of, measured.folder),
            made_with=provenance.made_with_table(of, measured.folder),
            differ=difference_line([run.summary for group in groups for run in group.runs]),
            failures=provenance.failures(of, measured.folder),
            not_drawn=provenance.left_out(of, measured.folder),
            notes=provenance.notes(of, measured.folder),
            versions=sorted({r.summary.version for r in of.finished}),
        )
    )


def _data(measured: Measured, heads: Sequence[int], pictures: Pictures) -> script_data.PageData:
    groups, results = measured.groups, measured.results
    return script_data.PageData(
        groups=[_group(measured, number, head, pictures) for number, head in enumerate(heads)],
        alpha=None if results is None else script_data.alpha_curve(groups, results, measured.published),
        pictures=[script_data.picture_data(p, measured.tables[p.group]) for p in pictures.shown],
    )


def _group(measured: Measured, number: int, head: int, pictures: Pictures) -> script_data.GroupData:
    """One group with as many rows as fit; those with pictures are always among them."""
    table, beside = measured.tables[number], {s: files for (g, s), files in pictures.beside.items() if g == number}
    drawn = [*(p.sample_id for p in pictures.shown if p.group == number), *beside]
    limit = script_data.fitting(table, ROWS // len(measured.groups))
    chosen = choose(table.change(0, head), limit, always={table.rows[s] for s in drawn if s in table.rows})
    addresses = {s: [provenance.file_address(f, measured.folder) for f in files] for s, files in beside.items()}
    return script_data.group_data(measured.groups[number], table, chosen, head, addresses)


def render(page: Page) -> str:
    """The page. Every value is escaped, and no script but the page's own may run, whatever text the files hold."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: plain(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    style, *scripts = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", *SCRIPTS))
    script = "".join(scripts)
    text = environment.get_template("report.html.j2").render(
        **vars(page) | {"data": cleaned(page.data)},
        bar=maps.bar_colours(),
        outlines={"mask": maps.as_hex(maps.MASK), "truth": maps.as_hex(maps.TRUTH)},
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair in a file is no character


def plain(text: str) -> str:
    """A text without control characters, line by line. What the templates bring (Markup) stays."""
    if isinstance(text, Markup) or text.isprintable():
        return text
    return "\n".join(clean(line, len(line)) for line in text.split("\n"))


def cleaned(value: object) -> object:
    """Data for the page's script: no text in it holds a control character, however deep it lies."""
    if isinstance(value, str):
        return plain(value) if CONTROLS.search(value) else value
    if isinstance(value, Mapping):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, list | tuple) else value

"""A run or a sweep as one HTML page that needs nothing else: figures, curves, expressions, heat maps, provenance."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from attrbind_exp.runs import provenance, script_data, sections
from attrbind_exp.runs.comparison import Group, make_groups, read_config, read_folder, without_merged_shards
from attrbind_exp.runs.expressions import choose, read_table
from attrbind_exp.runs.pictures import read_pictures

TEMPLATES = Path(__file__).parent / "templates"
ROWS = 2000  # expressions in a page, of all groups together
PICTURES = 2_500_000  # characters of inlined pictures

Paper = Mapping[str, Mapping[str, Any]]


def make_page(folder: Path, paper: Paper) -> str:
    """The page of a run's or a sweep's folder.

    `paper`: the paper's [threshold, mIoU] by what is scored and by variant label, for runs whose configuration names no
    table of its own. Raises UserError where there is nothing to show, or a file is not what a run writes.
    """
    folder = folder.resolve()
    found, unfinished = read_folder(folder)
    groups = make_groups(without_merged_shards(found), folder)
    spec = _spec(groups, paper)
    return render({
        "title": spec.get("title") or folder.name,
        "folder": folder,
        **_figures(groups, spec, paper, folder),
        "runs": provenance.runs(found, unfinished, folder),
        "commands": provenance.commands(found, unfinished, folder),
        "settings": provenance.settings(found, unfinished, folder),
        "failures": provenance.failures(found, folder),
        "notes": provenance.notes(found, unfinished, folder),
        "versions": sorted({str(r.summary.get("version", "?")) for r in found}),
    })  # fmt: skip


def _spec(groups: Sequence[Group], paper: Paper) -> dict[str, Any]:
    """The table that the runs' configuration asks for, else the paper's figures for what they scored."""
    if not groups:
        return {}
    named = read_config(groups[0].runs[0].folder).get("report")
    return named if isinstance(named, dict) else {"paper": paper.get(groups[0].scored, {})}


def _figures(groups: Sequence[Group], spec: Mapping[str, Any], paper: Paper, folder: Path) -> dict[str, Any]:
    """All that is measured: what the template shows, and `data` for the page's script."""
    published = {**paper.get(groups[0].scored, {}), **(spec.get("paper") or {})} if groups else {}
    tables = [read_table(g) for g in groups]
    results = sections.results(groups, tables, spec, folder) if groups else None
    parts = [] if results is None else [results[results["group"] == i] for i in range(len(groups))]
    heads = [sections.head(g, part) for g, part in zip(groups, parts, strict=True)]
    chosen = [choose(t.change(0, h), ROWS // len(groups)) for t, h in zip(tables, heads, strict=True)]
    pictures = read_pictures(groups, PICTURES)
    data = {
        "groups": [script_data.group_data(*given) for given in zip(groups, tables, chosen, heads, strict=True)],
        "alpha": None if results is None else script_data.alpha_curve(groups, results, {"paper": published}),
        "pictures": [script_data.picture_data(p, tables[p.group]) for p in pictures.shown],
    }
    return {
        "groups": groups,
        "headlines": [sections.headline(g, part) for g, part in zip(groups, parts, strict=True)],
        "results": None if results is None else sections.shown_results(groups, results, spec),
        "slices": [sections.slices(g) for g in groups],
        "pictures": pictures,
        "data": data,
    }


def render(context: Mapping[str, Any]) -> str:
    """The page. Every value is escaped, and no script but the page's own may run, whatever text the files hold."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    style, *scripts = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "charts.js", "report.js")
    )
    script = "".join(scripts)
    page = environment.get_template("report.html.j2").render(
        **context,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair in a file is no character

"""A run or a sweep as one HTML page that needs nothing else: figures, curves, expressions, heat maps, provenance."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from attrbind_exp.reporting.html import provenance, script_data, sections
from attrbind_exp.reporting.html.collect import Measured
from attrbind_exp.reporting.html.expressions import choose
from attrbind_exp.reporting.html.pictures import read_pictures

TEMPLATES = Path(__file__).parent / "templates"
ROWS = 2000  # expressions in a page, of all groups together
PICTURES = 2_500_000  # characters of inlined pictures


def make_page(measured: Measured) -> str:
    """The page of a run's or a sweep's folder."""
    found, unfinished, folder = measured.found, measured.unfinished, measured.folder
    return render(
        {
            "title": measured.spec.get("title") or folder.name,
            "folder": folder,
            **_figures(measured),
            "runs": provenance.runs(found, unfinished, folder),
            "commands": provenance.commands(found, unfinished, folder),
            "settings": provenance.settings(found, unfinished, folder),
            "failures": provenance.failures(found, folder),
            "notes": provenance.notes(found, unfinished, folder),
            "versions": sorted({str(r.summary.get("version", "?")) for r in found}),
        }
    )


def _figures(measured: Measured) -> dict[str, Any]:
    """All that is measured: what the template shows, and `data` for the page's script."""
    groups, tables, results, parts = measured.groups, measured.tables, measured.results, measured.parts
    heads = [sections.head(g, part) for g, part in zip(groups, parts, strict=True)]
    chosen = [choose(t.change(0, h), ROWS // len(groups)) for t, h in zip(tables, heads, strict=True)]
    pictures = read_pictures(groups, PICTURES)
    data = {
        "groups": [script_data.group_data(*given) for given in zip(groups, tables, chosen, heads, strict=True)],
        "alpha": None if results is None else script_data.alpha_curve(groups, results, measured.published),
        "pictures": [script_data.picture_data(p, tables[p.group]) for p in pictures.shown],
    }
    return {
        "groups": groups,
        "headlines": [sections.headline(g, part) for g, part in zip(groups, parts, strict=True)],
        "results": None if results is None else sections.shown_results(groups, results, measured.spec),
        "slices": [sections.slices(g) for g in groups],
        "pictures": pictures,
        "data": data,
    }


def render(context: Mapping[str, Any]) -> str:
    """The page. Every value is escaped, and no script but the page's own may run, whatever text the files hold."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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

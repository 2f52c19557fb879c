"""python -m attrbind_exp.runs.dashboard ENTITY/PROJECT: the W&B workspace for sweeps, as code. Needs an account."""

import argparse
import sys
from typing import TYPE_CHECKING

from attrbind_exp.runs.shown import clean

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

TABLES = ("results", "variants", "expressions")
GALLERIES = ("figure", "gallery", "improved", "harmed")


def make_workspace(entity: str, project: str, sweep: str | None = None) -> "Workspace":
    """Alpha curve, tables and galleries of a project: of one `sweep` (a group: table3_alpha/refcoco_sd15) or of all.

    The names are those that reporting.track logs. Nothing is sent: `save` does that.
    """
    # These load wandb, which takes seconds that --help does not need.
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    alpha, mIoU = panels.Config("alpha"), panels.SummaryMetric("mIoU")
    sections = [
        workspaces.Section(
            "Alpha",
            is_open=True,
            panels=[
                panels.ScatterPlot(title="mIoU by alpha", x=alpha, y=mIoU),
                panels.BarPlot(title="mIoU by run", metrics=[mIoU], orientation="h"),
                panels.BarPlot(title="oIoU by run", metrics=[panels.SummaryMetric("oIoU")], orientation="h"),
                panels.RunComparer(diff_only="split"),
            ],
        ),
        workspaces.Section(
            "Tables", is_open=True, panels=[panels.WeavePanelSummaryTable(table_name=name) for name in TABLES]
        ),
        workspaces.Section(
            "Heat maps",
            is_open=True,
            panels=[panels.MediaBrowser(title=name, media_keys=[name], num_columns=2) for name in GALLERIES],
        ),
    ]
    shown = workspaces.RunsetSettings(
        filters=[workspaces.Metric("Group") == sweep] if sweep else [],
        groupby=[] if sweep else [workspaces.Metric("Group")],
        order=[workspaces.Ordering(workspaces.Config("alpha"), ascending=True)],
    )
    name = f"attrbind_exp: {sweep or 'sweeps'}"
    return workspaces.Workspace(entity, project, name, sections, runset_settings=shown)


def main() -> None:
    """Save the workspace and print its address."""
    parser = argparse.ArgumentParser(prog="python -m attrbind_exp.runs.dashboard", description=__doc__)
    parser.add_argument("project", help="ENTITY/PROJECT")
    parser.add_argument("--sweep", help="only the runs of this group")
    given = parser.parse_args()
    entity, slash, project = given.project.partition("/")
    if not (entity and slash and project):
        parser.error(f"'{given.project}' is no ENTITY/PROJECT; give both, such as my-team/attrbind_exp")
    import wandb

    try:
        print(make_workspace(entity, project, given.sweep).save().url)
    except (wandb.errors.Error, ValueError, OSError) as error:
        said = clean(" ".join(str(error).split()), 1000)
        print(f"error: W&B refused: {said}; log in by: wandb login", file=sys.stderr)
        sys.exit(2)

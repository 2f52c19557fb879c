"""The W&B workspace for sweeps, as code."""

from typing import TYPE_CHECKING, Any

from attrbind_exp.runs.shown import clean
from attrbind_exp.tracking.live import STEP
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

TABLES = ("results", "variants", "expressions")
GALLERIES = ("figure", "gallery", "improved", "harmed")
MASKS = tuple(f"{name}_masks" for name in GALLERIES[1:])


def make_workspace(entity: str, project: str, sweep: str | None = None) -> "Workspace":
    """Curves, tables and galleries of a project: of one `sweep` (a group: table3_alpha/refcoco_sd15) or of all.

    The names are those that reporting.track and tracking.live log. The alpha curve is drawn of points that were logged
    for it: a run may have many alphas, and its summary has the figure of one. Runs are not grouped: panels would show
    the mean over a sweep, whatever its runs differ in. Nothing is sent: `save` does that.
    """
    # These load wandb, which takes seconds that --help does not need.
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    def over(name: str, x: str) -> panels.LinePlot:
        """The points of a curve, of every run that has it."""
        return panels.LinePlot(title=f"mIoU by {x}", x=f"{name}/{x}", title_x=x, metric_regex=f"^{name}/mIoU ")

    def live(title: str, *names: str) -> panels.LinePlot:
        """Figures of a run while it lasts."""
        return panels.LinePlot(title=title, x=STEP, title_x="scored so far", y=[f"live/{name}" for name in names])

    def bars(name: str) -> panels.BarPlot:
        return panels.BarPlot(title=f"{name} by run", metrics=[panels.SummaryMetric(name)], orientation="h")

    shown: dict[str, list[Any]] = {
        "Alpha": [over("alpha_curve", "alpha"), bars("mIoU"), bars("oIoU"), panels.RunComparer(diff_only="split")],
        "While a run lasts": [
            live("mIoU so far", "mIoU"),
            live("scored a second", "expressions_per_s", "images_per_s"),
            live("failures", "failures"),
            live("GPU memory, GiB", "gpu_memory_GiB"),
        ],
        "Tables": [panels.WeavePanelSummaryTable(table_name=name) for name in TABLES],
        "Thresholds": [over("threshold_curve", "threshold")],
        "Masks on the pictures": [panels.MediaBrowser(title=name, media_keys=[name], num_columns=4) for name in MASKS],
        "Heat maps": [panels.MediaBrowser(title=name, media_keys=[name], num_columns=2) for name in GALLERIES],
    }
    sections = [workspaces.Section(title, is_open=True, panels=found) for title, found in shown.items()]
    runs = workspaces.RunsetSettings(
        filters=[workspaces.Metric("Group") == sweep] if sweep else [],
        order=[workspaces.Ordering(workspaces.Config("alpha"), ascending=True)],
    )
    name = f"attrbind_exp: {sweep or 'sweeps'}"
    return workspaces.Workspace(entity, project, name, sections, runset_settings=runs)


def save_workspace(entity: str, project: str, sweep: str | None = None) -> str:
    """Send the workspace to W&B; its address. Raises UserError where W&B takes none."""
    import wandb

    try:
        return make_workspace(entity, project, sweep).save().url
    except (wandb.errors.Error, ValueError, OSError) as error:
        said = clean(" ".join(str(error).split()), 1000)
        raise UserError(f"W&B refused: {said}; log in by: wandb login") from error

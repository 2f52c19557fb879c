"""Tracking by MLflow. No other module knows it."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from attrbind_exp.runs.shown import shell_command
from attrbind_exp.runs.store import write_text
from attrbind_exp.tracking.tracker import Lines, flat_config, lacking

KEPT = "mlflow_run"  # in the run's folder: its id
BATCH = 100  # parameters that a store takes at once
LONGEST = 500  # characters of a parameter or a tag


class MlflowTracker:
    """A run in the store at `uri`: a database on this machine, or a server. Pictures and tables lie below `artifacts`.

    A folder is one run there, however often it is started. Raises UserError where the package is missing.
    """

    def __init__(
        self,
        folder: Path,
        run_config: Mapping[str, object],
        uri: str,
        artifacts: str | None = None,
        experiment: str = "attrbind_exp",
        job: str = "eval",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use to its makers
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise lacking("mlflow", '"mlflow==3.17.*" "importlib-metadata<10"') from error
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._uri, self._client = uri, MlflowClient(tracking_uri=uri)
        said = {"mlflow.runName": name or folder.name, "job": job, "group": group or "", "tags": ", ".join(tags)}
        self._run = self._go_on(folder) or self._begin(folder, experiment, artifacts, said, flat_config(run_config))

    def _go_on(self, folder: Path) -> str | None:
        """The id of the run that an earlier start of this folder began; None where the store has none of it."""
        from mlflow.exceptions import MlflowException

        with suppress(OSError, MlflowException):
            run = (folder / KEPT).read_text(encoding="ascii").strip()
            self._client.update_run(run, status="RUNNING")
            return run
        return None

    def _begin(
        self, folder: Path, experiment: str, artifacts: str | None, tags: dict[str, str], config: Mapping[str, object]
    ) -> str:
        """The id of a new run, which has its configuration; its folder keeps the id."""
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(experiment)
        place = None if artifacts is None else Path(artifacts).absolute().as_uri()
        number = self._client.create_experiment(experiment, place) if found is None else found.experiment_id
        run = self._client.create_run(number, tags={key: value[:LONGEST] for key, value in tags.items()}).info.run_id
        told = [Param(_name(key), str(value)[:LONGEST]) for key, value in config.items()]
        for first in range(0, len(told), BATCH):
            self._client.log_batch(run, params=told[first : first + BATCH])
        write_text(folder / KEPT, run + "\n")
        return run

    def log(self, values: Mapping[str, float]) -> None:
        """One point of each curve, at the step that the first value is."""
        (_, step), *others = values.items()
        self._measure(dict(others), round(step))

    def summary(self, values: Mapping[str, object]) -> None:
        """The run's figures as metrics; what is text, as tags."""
        self._measure({name: value for name, value in values.items() if isinstance(value, int | float)}, 0)
        for name, value in values.items():
            if isinstance(value, str):
                self._client.set_tag(self._run, _name(name), value[:LONGEST])

    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None:
        """A table: MLflow's own curves run over whole numbers."""
        self.table(name, [x, *(f"{y} {line}" for line in lines)], list(zip(xs, *lines.values(), strict=True)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table as MLflow keeps them, NAME.json."""
        data = {"columns": list(columns), "data": [list(row) for row in rows]}
        self._client.log_dict(self._run, data, f"{_name(name).replace('/', '_')}.json")

    def images(self, name: str, files: Mapping[str, Path]) -> None:
        """Pictures, in a folder NAME."""
        for file in files.values():
            self._client.log_artifact(self._run, str(file), _name(name).replace("/", "_"))

    def close(self) -> str | None:
        """End the run; how to look at it."""
        self._client.set_terminated(self._run)
        return "look at it by: " + shell_command(["mlflow", "ui", "--backend-store-uri", self._uri])

    def _measure(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(_name(k), float(v), now, step) for k, v in values.items()])


def _name(text: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w. :/-]", "_", text)

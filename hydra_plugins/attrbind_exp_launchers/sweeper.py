"""Hydra's own sweeper, and the baseline once, without being asked: a sweep over edits says what they gain over it."""

from collections.abc import Callable, Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf

Job = Sequence[str]  # the overrides of one run

BY_OVERRIDES = "${hydra.job.override_dirname}"  # how the folders of runs are named, unless someone says otherwise

EDITS = ("alpha", "text_processor")  # groups that choose how the embedding is edited
READING = ("text_processor.token_pooling", "text_processor.ing_rule", "text_processor.overrides")  # baseline's, too


class BaselineSweeper(BasicSweeper):
    """Every combination of what was typed, behind the runs of the baseline that the sweep lacks."""

    def get_job_batch(self) -> Sequence[Job]:
        """The next runs to be launched; those of the baseline come first, so that all others are compared to them."""
        first = self.batch_index == 0
        batch = super().get_job_batch()
        jobs = [job for part in self.overrides or [] for job in part]
        if not first:
            return batch
        return [*([*job, *self._own_folder()] for job in missing_baselines(jobs, self._measures_baseline)), *batch]

    def _own_folder(self) -> Job:
        """What keeps the folder of a baseline apart from those of the other runs, where they are named by hand."""
        assert self.config is not None
        named = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
        return [] if named == BY_OVERRIDES else [f"hydra.sweep.subdir='baseline_{named}'"]

    def _measures_baseline(self, job: Job) -> bool:
        from attrbind_exp.config.variants import has_baseline  # Hydra imports this file for every command

        assert self.hydra_context is not None and self.config is not None  # Hydra has called setup
        return has_baseline(self.hydra_context.config_loader.load_sweep_config(self.config, list(job)))


def missing_baselines(jobs: Sequence[Job], measures_baseline: Callable[[Job], bool]) -> list[Job]:
    """The runs of the baseline that a sweep lacks: one for all jobs that differ in nothing but their edits, none where
    there is only one such job or where one of them measures the baseline itself."""
    by_rest: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        by_rest.setdefault(tuple(o for o in job if not is_of_edits(o)), []).append(job)
    known: dict[tuple[str, ...], bool] = {}  # composing a configuration takes a while, and the rest does not matter

    def measured(job: Job) -> bool:
        edits = tuple(filter(is_of_edits, job))
        if edits not in known:
            known[edits] = measures_baseline(job)
        return known[edits]

    lacking = [rest for rest, same in by_rest.items() if len(same) > 1 and not any(map(measured, same))]
    return [[*rest, "text_processor=baseline"] for rest in lacking]


def is_of_edits(override: str) -> bool:
    """Whether an override says how the embedding is edited, which changes nothing of the baseline."""
    key = override.partition("=")[0].lstrip("+~")
    return key.split(".")[0] in EDITS and key not in READING

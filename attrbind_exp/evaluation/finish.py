"""From what was scored to a run's summary: the same for a run in one go, a resumed, a merged and a rescored one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attrbind_exp.runs.provenance import Identity, Provenance
from attrbind_exp.runs.summary import Summary
from attrbind_exp.tasks.task import Task
from attrbind_exp.types import Failure


@dataclass(frozen=True)
class Scored:
    """A task that has all rows, what could not be scored, and how long it took."""

    task: Task
    failures: Sequence[Failure]
    seconds: float


@dataclass(frozen=True)
class Origin:
    """What a summary says of how its run was made; the fields are those of runs.summary.Summary."""

    dataset: str
    split: str | None
    model: str
    model_name: str
    captioner: str
    note: str | None
    overrides: Sequence[str]
    config_hash: str
    version: str
    identity: Identity | None = None
    provenance: tuple[Provenance, ...] = ()


def summarize(scored: Scored, headline: int, origin: Origin) -> Summary:
    """The summary of a run; `headline`: the number of the variant that heads it."""
    variants = scored.task.figures()
    tally = scored.task.tally()
    head = variants[headline]
    return Summary(
        text_processor=head.text_processor,
        alpha=head.alpha,
        mIoU=head.mIoU,
        threshold=head.threshold,
        headline=headline % len(variants),
        scored=scored.task.scored,
        n=tally.n_scored + tally.n_unscored + len(scored.failures),
        n_scored=tally.n_scored,
        n_unscored=tally.n_unscored,
        n_failed=len(scored.failures),
        failures=dict(sorted(Counter(f.reason for f in scored.failures).items())),
        n_fallback=tally.fallbacks,
        n_bound=tally.n_bound,
        seconds=round(scored.seconds, 3),
        variants=variants,
        references=tuple(scored.task.references()),
        **vars(origin),
    )

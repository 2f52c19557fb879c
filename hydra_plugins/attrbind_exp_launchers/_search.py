"""Search spaces, and the study of one way of reading attention: Optuna's TPE with a fixed seed, told of runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from attrbind_exp.types import UserError

RANGE = {"low", "high", "log", "step"}
EXAMPLES = "give a list of choices, or a range such as {low: 0.01, high: 1, log: true}"
Constants = dict[str, Any]
Path = tuple[Any, ...]  # the keys that lead to a constant

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass
class Search:
    """The trials of one way of reading: `name` in the group heatmap, its `space`, the `seed` of the search.

    Call `ask`, run what it says, and `tell` of it, in turns.
    """

    name: str
    space: Mapping[Any, Any]
    seed: int
    trials: list[tuple[Constants, float | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._distributions = dict(distributions(self.space, f"hydra.sweeper.spaces.{self.name}"))
        self._study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=self.seed))
        self._asked: optuna.Trial | None = None

    def ask(self) -> Constants:
        """The constants of the next trial; none, which leaves all as the authors have them, of the first."""
        if not self.trials:
            self.trials.append(({}, None))
            return {}
        named = {".".join(map(str, path)): found for path, (found, _) in self._distributions.items()}
        self._asked = self._study.ask(named)
        constants: Constants = {}
        for (path, (_, choices)), value in zip(self._distributions.items(), self._asked.params.values(), strict=True):
            inner = constants
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = choices[value] if choices else _short(value)
        self.trials.append((constants, None))
        return constants

    def tell(self, mIoU: float | None) -> None:
        """What came of the trial that was asked for last; None where it failed."""
        self.trials[-1] = self.trials[-1][0], mIoU
        if self._asked is not None:
            self._study.tell(self._asked, mIoU, TrialState.FAIL if mIoU is None else TrialState.COMPLETE)

    @property
    def own(self) -> float | None:
        """mIoU under the authors' constants, in percent."""
        return self.trials[0][1]

    def best(self) -> tuple[Constants, float]:
        """The constants of the best trial, of several the first, and its mIoU; none of them where the authors' are the
        best. Raises UserError where all trials failed."""
        scored = [(mIoU, constants) for constants, mIoU in self.trials if mIoU is not None]
        if not scored:
            raise UserError(
                f"no trial of heatmap={self.name} could be scored; what failed is said above and in trials.csv"
            )
        mIoU, constants = max(scored, key=lambda trial: trial[0])
        return constants, mIoU

    def said(self) -> str:
        """How far it is, in a few words."""
        scored = [mIoU for _, mIoU in self.trials if mIoU is not None]
        own = "failed" if self.own is None else f"{self.own:.1f}"
        return f"{self.name} {own}" + (f" -> {max(scored):.1f}" if scored else "")


def distributions(
    space: object, place: str, path: Path = ()
) -> Iterator[tuple[Path, tuple[BaseDistribution, Sequence[Any]]]]:
    """What Optuna draws each constant of a space from, and the choices that its numbers stand for where there are some.
    Raises UserError for what is no space."""
    here = ".".join([place, *map(str, path)])
    if isinstance(space, list):
        if not space:
            raise UserError(f"{here}=[] has nothing to choose from; {EXAMPLES}")
        yield path, (CategoricalDistribution(range(len(space))), space)
    elif isinstance(space, Mapping) and space and not RANGE & set(space):
        for key, inner in space.items():
            yield from distributions(inner, place, (*path, key))
    elif isinstance(space, Mapping) and {"low", "high"} <= set(space) <= RANGE:
        yield path, (_range(space, here), ())
    else:
        raise UserError(f"{here}={space} is no search space; {EXAMPLES}")


def _range(space: Mapping[str, Any], here: str) -> BaseDistribution:
    low, high = space["low"], space["high"]
    whole = all(type(n) is int for n in (low, high, space.get("step") or 1))
    try:
        if whole:
            return IntDistribution(low, high, space.get("log", False), space.get("step") or 1)
        return FloatDistribution(low, high, space.get("log", False), space.get("step"))
    except (TypeError, ValueError) as error:
        raise UserError(f"{here}={dict(space)} is no range ({error}); {EXAMPLES}") from error


def _short(value: Any) -> Any:
    """A number in three digits, which are enough, and which a folder's name has room for."""
    return float(f"{value:.3g}") if isinstance(value, float) else value

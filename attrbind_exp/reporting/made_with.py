"""What runs that stand side by side were made of and with, and in what that differs."""

from collections.abc import Iterable, Sequence

from attrbind_exp.runs.provenance import OF_A_MODEL, told
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.summary import Summary

Key = tuple[str, ...]  # a name, and what else must be the same for two values under it to be compared


def fact_line(summaries: Sequence[Summary]) -> str:
    """Of which model and data the runs of a sweep are, and how many expressions of theirs failed."""
    failed, data = sum(s.n_failed for s in summaries), dict.fromkeys(s.dataset for s in summaries)
    return f"Model {summaries[0].model_name}; data {', '.join(data)}; {failed} failed."


def difference_line(summaries: Sequence[Summary]) -> str:
    """In what runs differ that are compared in one table: "These runs differ in: torch 2.12.1 / 2.13.0." Empty where
    they do not, or where none of them says.

    A configuration is not compared: that may be what a sweep is about. Data are compared among runs of one split,
    weights among runs of one model.
    """
    told_of = [s for s in summaries if s.provenance]
    values = _values([found for summary in told_of for found in _told(summary)])
    differing = [f"{key[0]} {' / '.join(found)}" for key, found in values.items() if len(found) > 1]
    said = []
    if differing:
        who = "These runs differ" if len(summaries) > 1 else "The parts of this run differ"
        said.append(f"{who} in: {'; '.join(dict.fromkeys(differing))}.")
    if told_of and len(told_of) < len(summaries):
        said.append(f"{len(summaries) - len(told_of)} of {len(summaries)} runs do not say what they were made with.")
    return clean(" ".join(said), 5000)


def _told(summary: Summary) -> Iterable[dict[Key, str]]:
    """What a run says of itself, part by part; of a scoring not what models compute with, since none did."""
    without = OF_A_MODEL if summary.command == "score" else ()
    for part in summary.provenance:
        yield {(name,): value for name, value in told(part, without).items()}
    if summary.identity is not None:
        among = {"data": (summary.dataset, str(summary.split)), "weights": (summary.model,)}
        known = {name: value for name, value in told(summary.identity).items() if value != "none"}
        known.pop("configuration")
        yield {(name, *among.get(name, ())): value for name, value in known.items()}


def _values(of: Iterable[dict[Key, str]]) -> dict[Key, list[str]]:
    """The values under each key, each once."""
    found: dict[Key, list[str]] = {}
    for values in of:
        for key, value in values.items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return found


def made_with(summary: Summary) -> dict[str, str]:
    """What a run was made of and with, by name; of parts that differ all values, in order. Empty where it does not
    say."""
    return {key[0]: " / ".join(found) for key, found in _values(_told(summary)).items()}

"""What one check found."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from attrbind_exp.runs.shown import clean
from attrbind_exp.types import Failure


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    "MISSING": a run would fail or score less than it says; "WARN": it runs, but look. `text` is what was seen and,
    where that is not right, what is expected and how to get it.
    """

    status: Literal["ok", "WARN", "MISSING"]
    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<7}  {self.check:<7}  {clean(' '.join(self.text.split()), 5000)}"


def by_reason(failures: Sequence[Failure]) -> str:
    """Failures counted by reason, the first one in full."""
    counts = ", ".join(f"{reason} {n}" for reason, n in Counter(f.reason for f in failures).most_common())
    return f"{counts}; first: {failures[0].sample_id} ({failures[0].message})"


def storage(n: float) -> str:
    """Bytes for reading: "3.44 GB", "1.2 MB"."""
    return f"{n / 1e9:,.2f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"

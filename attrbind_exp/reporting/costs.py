"""What each reading costs, from a file that benchmarks/readings.py --alone --out FILE writes."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from attrbind_exp.types import UserError

NAME = "readings-cost.json"
MEND = "make it with python benchmarks/readings.py --alone --out FILE"


class Cost(msgspec.Struct, frozen=True):
    """What one reading alone costs an expression, in bare conditional passes of the model: `measured` by time, None
    where nobody has, and `counted` by hand from its formula."""

    measured: float | None
    counted: float

    @property
    def known(self) -> float:
        """The measured cost, else the counted one."""
        return self.counted if self.measured is None else self.measured


class Costs(msgspec.Struct, frozen=True):
    """The cost of `readings` by name, the `machine` that it was measured on, and the `command`."""

    machine: str
    command: str
    readings: Mapping[str, Cost]


def read_costs(file: Path) -> Costs | None:
    """The costs in a file, None where there is no such file. Raises UserError for what is no file of costs, or a cost
    that is not above 0."""
    if not file.is_file():
        return None
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Costs)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{file}' does not hold the cost of readings ({error}); {MEND}") from error
    for name, cost in found.readings.items():
        if (least := min(cost.known, cost.counted)) <= 0:
            raise UserError(f"'{file}' says that {name} costs {least:g} passes; {MEND}")
    return found

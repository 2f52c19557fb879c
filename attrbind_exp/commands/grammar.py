"""A value in Hydra's grammar, read by Hydra's own parser: what a sweep goes through, one by one."""

from collections.abc import Sequence
from decimal import Decimal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString, RangeSweep, Sweep
from hydra.errors import HydraException

from attrbind_exp.types import UserError


def read_values(argument: str, options: Sequence[str] = ()) -> list[object] | None:
    """The values of KEY=VALUE: one, or all that a sweep goes through, in the order that they are written in.

    Quotes are taken off; a value may be a list. range(..) and choice(..) become what they stand for, glob(..) the
    options that it matches. None where Hydra cannot read it, or does not know its values beforehand (interval).
    Raises UserError for a sweep over nothing.
    """
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return None
    if isinstance(value, Glob):
        found: list[object] = list(value.filter(list(options)))
    elif isinstance(value, RangeSweep):
        found = list(numbers(value))
    elif isinstance(value, ChoiceSweep):
        found = list(value.list)
    else:
        return None if isinstance(value, Sweep) else [plain(value)]
    if not found:
        among = f"; choose from {', '.join(options)}" if options else ""
        raise UserError(f"{argument} sweeps over nothing{among}")
    return [plain(element) for element in found]


def numbers(sweep: RangeSweep) -> Sequence[int | float]:
    """The numbers of range(start,stop,step), without `stop`, in decimals as they are typed: 0.3, where sums of 0.1 in
    binary come to 0.30000000000000004."""
    start, stop, step = (Decimal(str(n)) for n in (sweep.start, sweep.stop, sweep.step))
    if not step:
        raise UserError("a range with steps of 0 has no end; give another step")
    many = max(0, -int(-((stop - start) / step).to_integral_value("ROUND_CEILING")))
    kind = int if all(isinstance(n, int) for n in (sweep.start, sweep.stop, sweep.step)) else float
    return [kind(start + i * step) for i in range(many)]


def plain(value: object) -> object:
    """A value without the parser's marks of quotes."""
    if isinstance(value, list):
        return [plain(element) for element in value]
    return value.text if isinstance(value, QuotedString) else value


def show(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

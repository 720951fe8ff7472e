"""Results: what one run measured, in one shape for tables, files, plots and budgets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

MORE_IS_BETTER = frozenset({"share", "commits/s"})


@dataclass(frozen=True)
class Row:
    """One contender in one case.

    Attributes
    ----------
    section, case, contender : str
        Together they name the row: ``("traces, warm", "gcc-c", "pmemheap")``.
    unit : str
        Of the values: ``"ns"`` a call or a block, ``"us"``, ``"ms"``, ``"share"``, ``"commits/s"``,
        ``"x"`` times.
    values : tuple of float
        One a round.
    """

    section: str
    case: str
    contender: str
    unit: str
    values: tuple[float, ...]

    @property
    def best(self) -> float:
        """The least of times, the greatest of shares and rates: what noise spoilt least."""
        return max(self.values) if self.unit in MORE_IS_BETTER else min(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)


@dataclass
class Results:
    """All rows of a run, and what it could not measure, with the reason."""

    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, rows: Iterable[Row]) -> None:
        self.rows.extend(rows)

    def sections(self) -> list[str]:
        return list(dict.fromkeys(row.section for row in self.rows))

    def cases(self, section: str) -> list[str]:
        return list(dict.fromkeys(row.case for row in self.rows if row.section == section))

    def contenders(self, section: str) -> list[str]:
        return list(dict.fromkeys(row.contender for row in self.rows if row.section == section))

    def find(self, section: str, case: str, contender: str) -> Row | None:
        for row in self.rows:
            if (row.section, row.case, row.contender) == (section, case, contender):
                return row
        return None

    def best(self, section: str, case: str, contender: str) -> float:
        """Return the row's best value; NaN where it was not measured."""
        row = self.find(section, case, contender)
        return math.nan if row is None else row.best

    def median(self, section: str, case: str, contender: str) -> float:
        """Return the row's median; NaN where it was not measured."""
        row = self.find(section, case, contender)
        return math.nan if row is None else row.median

    def bests(self, section: str, contender: str) -> dict[str, float]:
        """Return the best value of each case that the contender took part in."""
        return {
            row.case: row.best
            for row in self.rows
            if (row.section, row.contender) == (section, contender)
        }


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean; NaN of nothing, or where a value is not positive."""
    known = list(values)
    if not known or min(known) <= 0:
        return math.nan
    return math.exp(sum(map(math.log, known)) / len(known))

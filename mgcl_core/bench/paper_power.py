"""What the paper's comparisons could show: ``data/paper/power.csv``, simulated for its three test sets and three seeds.

Made by ``make paper-power``, in minutes; `mgcl_core.reporting.paper_claims` reads it.
"""

from __future__ import annotations

import sys

import pandas as pd

from ..metrics import METRICS
from ..reporting.paper_claims import PAPER_RUNS
from ..reporting.published import SCHEMES, paper_file
from .simulation import KINDS, Cell, Design, needed_quantiles

#: Probabilities of being found; the seeds' own variance is half the clips'.
LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
RATIO = 0.5


def paper_power(data_sets: int = 400) -> pd.DataFrame:
    """True differences that a single comparison at 5 % finds with each probability of `LEVELS`.

    Labels of CMU-MOSEI are taken to be distributed as those of CMU-MOSI.

    Args:
        data_sets: simulated test sets of each row.

    Returns:
        One row per dataset of the paper, kind of pair and metric; one column per probability, in the units of
        `regression_metrics`. Pairs that share encoders are on CH-SIMS alone, where the paper's ablations are.
    """
    rows = []
    for size in paper_file("test_sets").itertuples():
        scheme = SCHEMES[size.dataset]
        design = Design(scheme, int(size.clips), int(size.videos), PAPER_RUNS)
        for kind in KINDS[1:] if size.dataset == "CH-SIMS" else KINDS[1:2]:
            for metric in METRICS[scheme]:
                found = needed_quantiles(Cell(design, kind, metric, RATIO), LEVELS, data_sets)
                row = {"dataset": size.dataset, "pair": kind.removeprefix("pair, "), "metric": metric}
                rows.append(row | {f"{level:g}": round(value, 5) for level, value in zip(LEVELS, found, strict=True)})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    paper_power().to_csv(sys.stdout, index=False)

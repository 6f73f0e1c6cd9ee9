"""What ``mgcl run`` ends with once the tables are assembled: MGCL's rows, the reference, time, disk and the report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..reporting.agreement import agreement
from ..reporting.cells import REFERENCE
from ..support.errors import RunError
from ..support.paths import shipped

#: The report that the repository keeps a reference of: both demo corpora, nothing changed.
DEMO_REPORT = "demo+demo-mosi-demo"


def closing_lines(report: Path, results: Path, seconds: float) -> list[str]:
    """Describe a finished main job in a few lines.

    Args:
        report: Folder of the assembled tables.
        results: Folder of all results.
        seconds: That all notebooks took together, this time.
    """
    lines = [line for number in (3, 4) for line in _rows(report / "tables", number)]
    if report.name == DEMO_REPORT:
        lines.append(_beside_the_reference(report / "tables"))
    size = sum(path.lstat().st_size for path in results.rglob("*") if path.is_file())
    lines.append(f"{seconds / 60:.1f} minutes; {size / 1e6:,.0f} MB in {results}")
    return [*lines, f"report: {report / 'report.html'}"]


def _rows(tables: Path, number: int) -> list[str]:
    """MGCL's rows of a table as it is displayed, one for each corpus that was run."""
    shown = pd.read_csv(tables / f"table{number}.csv", dtype=str, keep_default_na=False)
    cells = pd.read_csv(tables / f"table{number}_cells.csv", dtype={"corpus": str})
    corpora = cells.dropna(subset=["corpus"]).loc[lambda frame: frame["model"] == REFERENCE, "corpus"].unique()
    rows = shown[(shown["Model"] == REFERENCE) & shown["Row"].str.startswith("ours (")]
    metrics = [name for name in shown.columns if name not in ("Dataset", "Model", "Row")]
    return [
        f"{REFERENCE} on {corpus}, {row['Row']}: " + ", ".join(f"{name} {row[name]}" for name in metrics)
        for corpus, (_, row) in zip(corpora, rows.iterrows(), strict=True)
    ]


def _beside_the_reference(tables: Path) -> str:
    try:
        reference = shipped("results", "demo", "reference")
    except RunError as error:
        return str(error)
    cells = agreement(tables, reference)
    inside = int(cells["inside"].sum())
    return (
        f"{inside} of {len(cells)} cells of Tables 3 to 6 lie within the tolerance of the reference"
        + ("" if inside == len(cells) else f", not {_named(cells[~cells['inside']])}")
        + " (machines round differently: docs/measured.md)"
    )


def _named(cells: pd.DataFrame, most: int = 3) -> str:
    names = [f"{row.model} {row.metric} in Table {row.table}" for row in cells.itertuples()]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

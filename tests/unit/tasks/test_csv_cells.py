"""CSV files from data: no cell is a formula, unless raw cells are asked for."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_embed import Pictures, drawing

import tether
from tether.core.printable import CsvRows, csv_cell, unguarded
from tether.core.types import Row
from tether.data.curate.engine.run import curate
from tether.data.curate.metaclip.metaclip import MetaClipCurator
from tether.data.curate.pools.opening import open_pool
from tether.evaluate.datasheet.dropped import examples
from tether.methods.q16.audit import AuditReport, FlaggedImage
from tether.models import create

FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\uff1d1")
QUOTED = ("'=1", "''=1", "'-0.5", "'", "''")
HARMLESS = ("-0.5", "a = b", "", "'quoted", "-1e-06")


def write(folder: Path, *, raw: bool) -> list[str]:
    """Cells of every kind of CSV that is written, one of each."""
    out = io.StringIO(newline="")
    CsvRows(out, raw_csv=raw).write([*FORMULAS, *HARMLESS, -0.5])
    found = next(csv.reader(io.StringIO(out.getvalue(), newline="")))
    assert found[len(FORMULAS) :] == [*HARMLESS, "-0.5"]
    found = found[: len(FORMULAS)]

    pictures = Pictures([Row("=key", drawing(0))])
    tether.classify(pictures, ["@a", "@b"], model=create("tiny").eval()).save(folder / "c.csv", raw_csv=raw)
    line = next(csv.DictReader((folder / "c.csv").open(newline="")))
    found += [line["key"], line["label"], line["class_2"]]

    empty = np.zeros(0)
    report = AuditReport(
        1, (FlaggedImage("=id", 0.9, -0.5, 0.1),), empty, empty, 0.9, "cosine", ("a", "b"), "a", "x", None, "y",
        np.zeros(1), np.zeros((0, 2)), (), (),
    )  # fmt: skip
    line = next(csv.DictReader(io.StringIO(report.to_csv(raw_csv=raw))))
    assert line["cosine"] == "-0.5"
    found += [line["id"]]

    table = {"key": ["=k", "b"], "caption": ["@nothing", "a cat"]}
    pq.write_table(pa.table(table), folder / "pool.parquet")
    manifest = curate(
        open_pool(str(folder / "pool.parquet")),
        steps=[("metaclip", MetaClipCurator(entries=["cat"], t=1))],
        out=folder / "kept",
        raw_csv=raw,
    )
    line = next(csv.DictReader(next((folder / "kept" / "dropped").iterdir()).open(newline="")))
    (shown,) = examples(folder / "kept", manifest)["metaclip"]
    assert (shown.key, shown.text) == ("=k", "@nothing")
    return [*found, line["key"], line["text"]]


@pytest.mark.parametrize("raw", [False, True])
def test_formulas_get_an_apostrophe_unless_raw_cells_are_asked_for(tmp_path: Path, raw: bool) -> None:
    cells = write(tmp_path, raw=raw)
    assert [unguarded(csv_cell(text)) for text in (*FORMULAS, *QUOTED, *HARMLESS)] == [*FORMULAS, *QUOTED, *HARMLESS]
    assert [cell.startswith("'") for cell in cells] == [not raw] * len(cells), cells
    if not raw:
        assert [unguarded(cell) for cell in cells[: len(FORMULAS)]] == list(FORMULAS)

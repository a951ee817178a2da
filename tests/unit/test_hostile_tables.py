"""Tables and archives from anyone: a bad row is skipped and named, a bad file is refused by name, nothing else."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.curate.pool import open_pool
from tether.data.loader import ordered
from tether.data.shuffle import reason_against


def picture(value=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(source):
    return [row for block in source.blocks() for row in source.read(block)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("told", ["no", "0", ""])
def test_a_column_called_bad_is_a_column_like_others(tmp_path, kind, told):
    (tmp_path / "a.png").write_bytes(picture())
    columns = {"image": ["a.png"], "caption": ["a cat"], "bad": [told]}
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_text(f"image,caption,bad\na.png,a cat,{told}\n")
    else:
        pq.write_table(pa.table(columns), path)
    (row,) = rows_of(open_source(str(path)))
    assert (row.texts, dict(row.meta), row.bad) == (("a cat",), {"bad": told}, "")
    assert reason_against(row, need_text=True) is None
    assert len(list(ordered(open_source(str(path)), image_spec=ImageSpec((8, 8)), batch_size=1))) == 1
    pool = open_pool(str(path))
    (rows,) = pool.read(0, columns="all", extra=["bad"])
    assert (rows.extra["bad"].to_pylist(), rows.bad) == ([told], ())
    assert "bad" in pool.column_names()

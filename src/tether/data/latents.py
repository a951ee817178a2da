"""A column of tensors: what another model made of an image, as numbers or as their bytes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le, MaxLen, MinLen

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.core.types import Row

MOST_NUMBERS = 1 << 24
"""Numbers of one tensor, at most."""


class TensorColumn:
    """A column whose cells are tensors of one shape.

    Example:
        >>> import numpy as np
        >>> from tether.core.types import Row
        >>> from tether.data.latents import TensorColumn
        >>> column = TensorColumn(column="vae", shape=[1, 2, 2], dtype="float16")
        >>> column.read(Row("7", None, meta={"vae": np.arange(4, dtype=np.float16).tobytes()})).tolist()
        [[[0.0, 1.0], [2.0, 3.0]]]
    """

    @checked
    def __init__(
        self,
        *,
        column: str,
        shape: Annotated[list[Annotated[int, Ge(1), Le(MOST_NUMBERS)]], MinLen(1), MaxLen(8)],
        dtype: Literal["float16", "float32", "float64", "uint8", "int8"] = "float32",
    ) -> None:
        """Take the settings.

        Args:
            column: its name.
            shape: of every cell.
            dtype: of cells that are bytes, little-endian, row by row; lists (also flat or of lists) and arrays have
                their own.
        """
        if math.prod(shape) > MOST_NUMBERS:
            raise InputError(f"shape: expected at most {MOST_NUMBERS:,} numbers, got {math.prod(shape):,}")
        self.column, self.shape, self._dtype = column, tuple(shape), np.dtype(dtype).newbyteorder("<")

    def read(self, row: Row) -> np.ndarray:
        """The tensor of a row, float32.

        Raises:
            InputError: none, one of another length or shape, or with numbers that are not finite; it names the row.
        """
        if self.column not in row.meta:
            raise InputError(f"{row.key}: no column {self.column!r} of latents; {closest(self.column, row.meta)}")
        where, cell = f"{row.key}: {self.column}", row.meta[self.column]
        count = math.prod(self.shape)
        if isinstance(cell, bytes):
            if len(cell) != count * self._dtype.itemsize:
                wanted = f"{count * self._dtype.itemsize} bytes ({self._dtype.name}, {self.shape})"
                raise InputError(f"{where}: expected {wanted}, got {len(cell)}")
            values = np.frombuffer(cell, self._dtype)
        elif isinstance(cell, (list, tuple, np.ndarray)):
            try:
                values = np.asarray(cell)
            except ValueError:
                raise InputError(f"{where}: expected numbers of shape {self.shape}, got ragged lists") from None
            if values.dtype.kind not in "fiu" or values.shape not in (self.shape, (count,)):
                got = f"{values.shape} of {values.dtype}"
                raise InputError(f"{where}: expected numbers of shape {self.shape} or ({count},), got {got}")
        else:
            raise InputError(f"{where}: expected bytes or numbers of shape {self.shape}, got {type(cell).__name__}")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            values = values.astype(np.float32).reshape(self.shape)
        if not np.isfinite(values).all():
            raise InputError(f"{where}: expected finite numbers, got NaN or infinity")
        return values

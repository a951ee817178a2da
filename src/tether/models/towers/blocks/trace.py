"""Looking inside a tower: an explicit recorder that is passed through it, instead of hooks hung on modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Edit = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Trace:
    """Names the inner values to keep while a tower runs, and optionally changes them on the way.

    Names are ``blocks.<i>.input`` (b, n, width), ``blocks.<i>.heads`` (b, heads, n, width / heads): each head's output
    before the output projection, and ``blocks.<i>.attention`` (b, heads, n): what the pooling token attends to in block
    i. In the last block only the pooling token is computed unless tokens are asked for, so ``heads`` has n = 1 there.

    Attributes:
        keep: the names to record.
        edit: functions applied to a value where it arises; what follows sees the result (``attention`` is read only).
        values: what was recorded, by name, with gradient where the pass had one.
    """

    keep: Iterable[str] = ()
    edit: Mapping[str, Edit] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the wanted names."""
        self.keep = frozenset(self.keep)

    def visit(self, name: str, value: Tensor) -> Tensor:
        """Pass a value through: edit it if asked, keep it if asked, return what the tower goes on with."""
        if name in self.edit:
            value = self.edit[name](value)
        if name in self.keep:
            self.values[name] = value
        return value

    def wants(self, name: str) -> bool:
        """Whether this value must be recorded; costly ones are only computed then."""
        return name in self.keep

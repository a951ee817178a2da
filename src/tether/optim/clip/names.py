"""Parameter names as the model itself has them, whatever it is wrapped in, and shell patterns of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from tether.core.component import closest
from tether.core.errors import InputError

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP1 and activation checkpointing put into names."""
_REPLICATED = "module."
"""What DistributedDataParallel and DataParallel put before every name."""


def plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names without what wrappers add, so that a state saved under DDP is found again without it.

    ``module.`` is taken off only when every name begins with it. Names that would fall together stay as they are.
    """
    plain = list(names)
    for wrapper in _WRAPPERS:
        plain = [name.replace(wrapper, "") for name in plain]
    while plain and all(name.startswith(_REPLICATED) for name in plain):
        plain = [name.removeprefix(_REPLICATED) for name in plain]
    return tuple(plain) if len(set(plain)) == len(set(names)) else tuple(names)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns, e.g. ``*logit_scale``."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(patterns: Iterable[str], *, names: Sequence[str], where: str) -> None:
    """Refuse a pattern that fits no name: it is a typing error, and would limit what must not be limited.

    Raises:
        InputError: it says where, which pattern, and what is known.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"{where}: no parameter is named like {pattern!r}; {closest(pattern, names)}")

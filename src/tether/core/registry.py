"""Parts by name, each imported when it is asked for, so that a list of names imports nothing."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tether.core.errors import InputError, reason_of
from tether.core.method_files import FOLDER, MethodWarning, method_files, said_of_lost
from tether.core.printable import printable

T_co = TypeVar("T_co", covariant=True)


class Registry(Mapping[str, type[T_co]], Generic[T_co]):
    """The parts of one kind by the name that a configuration uses.

    Members are those written where the registry stands, and those that methods register; see ``core.method_files``.
    Iteration and ``in`` import none of them.

    Args:
        kind: name of the registry in ``method.toml``, one of ``core.method_files.KINDS``; empty where methods register
            nothing, as in one that only joins others.
        members: name to ``module:Class``.
        including: registries whose members are members of this one too, before its own.

    Example:
        >>> from tether.core.registry import Registry
        >>> clippers = Registry("", {"global_norm": "tether.optim.clip.global_norm:GlobalNorm"})
        >>> list(clippers), clippers["global_norm"].__name__
        (['global_norm'], 'GlobalNorm')
    """

    def __init__(self, kind: str, members: Mapping[str, str], *, including: Sequence[Registry[T_co]] = ()) -> None:
        """Keep the names; nothing is imported."""
        self.kind = kind
        self._members = dict(members)
        self._including = tuple(including)

    def __getitem__(self, name: str) -> type[T_co]:
        """The class.

        Raises:
            KeyError: no such name.
            InputError: a method registers the name and cannot be imported, or several methods register it.
        """
        if (target := self._kernel(name)) is not None:
            return _imported(target)
        for other in self._including:
            if name in other:
                return other[name]
        line, *more = self._registered[name]
        if more:
            keys = " and ".join(f"{one.path}: {one.key}" for one in (line, *more))
            raise InputError(f"{name!r} is registered {1 + len(more)} times: {keys}; rename all but one")
        return line.imported()

    def __contains__(self, name: object) -> bool:
        """Whether a name is known, without importing anything."""
        return name in self._members or any(name in other for other in self._including) or name in self._registered

    def __iter__(self) -> Iterator[str]:
        """The names: of the included registries, the registry's own, of methods."""
        included = (name for other in self._including for name in other)
        return iter(dict.fromkeys([*included, *self._members, *self._registered]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {list(self)})"

    @staticmethod
    def hint(name: str) -> str:
        """What may help who asked for a name that is not there: it is a method's, or methods are lost; or nothing."""
        slug = name.replace("_", "-")
        named = any(file.slug == slug for file in method_files())
        return f"tether methods {slug} shows the parts of the method {slug}" if named else said_of_lost()

    def working(self) -> dict[str, type[T_co]]:
        """All members by name; one of a method that cannot be imported is left out, with a ``MethodWarning``."""
        found = {}
        for name in self:
            try:
                found[name] = self[name]
            except InputError as error:
                warnings.warn(printable(f"left out: {error}"), MethodWarning, stacklevel=2)
        return found

    def name_of(self, part: type) -> str:
        """The name of a member, found without importing others; of another class its own name."""
        return self._names().get(f"{part.__module__}:{part.__qualname__}", part.__name__)

    def _names(self) -> dict[str, str]:
        """``module:Class`` to name."""
        found = {lines[0].target: name for name, lines in self._registered.items()}
        found |= {target: name for other in self._including for target, name in other._names().items()}
        return found | {target: name for name, target in self._members.items()}

    def _kernel(self, name: str) -> str | None:
        """``module:Class`` of a member that no method registered, here or in an included registry."""
        if name in self._members:
            return self._members[name]
        return next((target for other in self._including if (target := other._kernel(name)) is not None), None)

    @functools.cached_property
    def _registered(self) -> Mapping[str, Sequence[_Line]]:
        """What methods register here, by name: more than one line where they disagree."""
        found: dict[str, list[_Line]] = {}
        for line in _lines().get(self.kind, ()):
            # The user can rename what another package registers, but not what Tether does.
            taken = self._kernel(line.name) is not None or any(line.name in other for other in self._including)
            if taken or (not line.own and any(one.own for one in found.get(line.name, ()))):
                told = f"{line.path}: {line.key}: left out: the name is taken; rename it"
                warnings.warn(printable(told), MethodWarning, stacklevel=2)
            else:
                found.setdefault(line.name, []).append(line)
        return found


@dataclass(frozen=True, slots=True)
class _Line:
    """One part in a ``method.toml``."""

    path: Path
    kind: str
    name: str
    target: str

    @property
    def own(self) -> bool:
        """Whether it is Tether's; these come first."""
        return self.path.is_relative_to(FOLDER)

    @property
    def key(self) -> str:
        return f"register.{self.kind}.{self.name}"

    def imported(self) -> type:
        """The class.

        Raises:
            InputError: there is none, or importing its module fails.
        """
        where = f"{self.path}: {self.key}: {self.target!r}"
        try:
            found = _imported(self.target)
        except KeyboardInterrupt:
            raise
        except _NoSuchNameError as error:
            raise InputError(f"{where}: {error}; correct the name, or remove the line") from error
        except BaseException as error:  # anything at all may go wrong in somebody else's module, an exit too
            raise InputError(
                f"{where}: cannot be imported: {type(error).__name__}: {_said(error)}; install what it needs, or "
                "uninstall the package that brings it"
            ) from error
        if not isinstance(found, type):
            raise InputError(
                f"{where}: expected a class, got {type(found).__name__}; correct the name, or remove the line"
            )
        return found


def _said(error: BaseException) -> str:
    try:
        return reason_of(error)[:300]
    except Exception:  # of an error that cannot say what it is
        return "no reason"


class _NoSuchNameError(AttributeError):
    """A module that can be imported lacks the class."""


@functools.cache
def _lines() -> Mapping[str, Sequence[_Line]]:
    """What methods register, by registry."""
    found: dict[str, list[_Line]] = {}
    for file in method_files():
        for kind, name, target in file.registered():
            found.setdefault(kind, []).append(_Line(file.path, kind, name, target))
    return found


def _imported(target: str) -> type:
    where, _, name = target.partition(":")
    try:
        module = importlib.import_module(where)
    except KeyError as error:  # ``Mapping.get`` would take it for a name that is not there
        raise ImportError(f"{where}: KeyError: {error}") from error
    if not hasattr(module, name):
        raise _NoSuchNameError(f"{where} has no {name!r}")
    return getattr(module, name)

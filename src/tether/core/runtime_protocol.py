"""``isinstance`` of a protocol that sees what attribute access sees, alike on every Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from typing_extensions import get_protocol_members, is_protocol

if TYPE_CHECKING:
    from typing import _ProtocolMeta
else:
    _ProtocolMeta = type(Protocol)


class ByAttributes(_ProtocolMeta):
    """A metaclass for runtime-checkable protocols: an instance is what has all members, however it comes by them.

    Since Python 3.12 ``isinstance`` of a protocol looks with ``inspect.getattr_static``. That sees neither the
    parameters, buffers and submodules of a ``torch.nn.Module`` nor what a wrapper passes on with ``__getattr__``, so
    that a wrapped model would silently be taken for something less than it is. This asks with ``getattr``, as Python
    3.11 did. A member that the protocol writes as a method may not be None.

    Example:
        >>> from typing import Protocol, runtime_checkable
        >>> from torch import nn
        >>> @runtime_checkable
        ... class Wrapper(Protocol, metaclass=ByAttributes):
        ...     model: nn.Module
        >>> class Cached(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.model = nn.Identity()
        >>> isinstance(Cached(), Wrapper), isinstance(nn.Identity(), Wrapper)
        (True, False)
    """

    def __instancecheck__(self, instance: object) -> bool:
        """Whether ``instance`` has every member of the protocol; an ordinary class asks as ever."""
        if not is_protocol(self) or not getattr(self, "_is_runtime_protocol", False):
            return super().__instancecheck__(instance)
        return all(_has(self, instance, name) for name in get_protocol_members(self))


def _has(protocol: type, instance: object, name: str) -> bool:
    if callable(getattr(protocol, name, None)):
        return getattr(instance, name, None) is not None
    return hasattr(instance, name)

"""Every protocol that is asked with isinstance sees what attribute access sees, on every Python."""

import ast
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn
from typing_extensions import get_protocol_members

import tether
from tether.core.geometry import COSINE, Geometry, geometry_of

ROOT = Path(tether.__file__).parent


def _runtime_protocols():
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        if "@runtime_checkable" not in text:
            continue
        module = ".".join(("tether", *path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(mark, ast.Name) and mark.id == "runtime_checkable" for mark in node.decorator_list
            ):
                yield pytest.param(module, node.name, id=node.name)


PROTOCOLS = list(_runtime_protocols())


class Passes:
    """A wrapper that passes on what it lacks."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)


class PassesAsModule(nn.Module):
    """The same as a Module, whose submodules are no attributes of the instance's dictionary."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)


def _module_with(members, kind):
    module = nn.Module()
    for name in members:
        if name.startswith("__"):  # Python looks these up on the class
            module = type("WithCall", (type(module),), {name: lambda self: None})()
    for name in members:
        if name.startswith("__") or hasattr(nn.Module, name):
            continue
        if kind == "submodule":
            module.add_module(name, nn.Identity())
        elif kind == "parameter":
            module.register_parameter(name, nn.Parameter(torch.zeros(1)))
        else:
            module.register_buffer(name, torch.zeros(1))
    return module


@pytest.mark.parametrize(("module", "name"), PROTOCOLS)
def test_members_of_any_kind_count(module, name):
    protocol = getattr(importlib.import_module(module), name)
    members = sorted(get_protocol_members(protocol))
    for kind in ("submodule", "parameter", "buffer"):
        has_all = _module_with(members, kind)
        assert isinstance(has_all, protocol), kind
        for wrapper in (PassesAsModule(has_all), Passes(has_all)):
            reached = [member for member in members if hasattr(wrapper, member)]
            assert isinstance(wrapper, protocol) == (reached == members), (kind, wrapper)
    assert not isinstance(object(), protocol) or all(hasattr(object(), member) for member in members)


def test_protocols_are_found():
    assert len(PROTOCOLS) >= 40


@pytest.mark.parametrize("wrap", [Passes, PassesAsModule])
def test_a_wrapped_model_keeps_its_geometry(wrap):
    class Euclidean(nn.Module):
        geometry = Geometry("euclidean")

    assert geometry_of(wrap(Euclidean())).name == "euclidean"
    assert geometry_of(wrap(wrap(Euclidean()))).name == "euclidean"
    assert geometry_of(nn.Identity()) is COSINE


def test_a_method_that_is_none_is_no_method():
    from tether.core.protocols import Stateful

    class Without:
        state_dict = None
        load_state_dict = None

    assert not isinstance(Without(), Stateful)

"""A package that is a verb shows itself as the function that it calls."""

from __future__ import annotations

import inspect
import pydoc

import tether
from tether.workflows.compress import compress
from tether.workflows.generate import generate
from tether.workflows.train import train


def test_help_and_signature_are_the_functions() -> None:
    assert inspect.signature(tether.train) == inspect.signature(train)
    shown = pydoc.render_doc(tether.train, renderer=pydoc.plaintext)
    assert "tether.train - Train a dual encoder on pairs of images and texts." in shown
    assert "tether.train(data=None, *, out, recipe=None, start=None," in shown
    assert "resume: go on from the folder's newest checkpoint." in shown
    assert inspect.getdoc(tether.train) == tether.training.__doc__


def test_generate_and_compress_are_called_as_their_neighbours() -> None:
    for package, function in ((tether.generate, generate), (tether.compress, compress)):
        assert inspect.signature(package) == inspect.signature(function)

"""Both towers of any encoder as ONNX files, by torch's exporter."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tether.core.errors import InputError, MissingExtraError, is_fault
from tether.core.protocols import DualEncoder
from tether.core.quiet import quiet_logging
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.tokenizer import lengths
from tether.models.train_mode import at_rest, eval_mode

Side = Literal["image", "text"]
INPUTS: dict[Side, str] = {"image": "pixel_values", "text": "input_ids"}
OUTPUTS: dict[Side, str] = {"image": "image_embeds", "text": "text_embeds"}
OPSET = 20
"""Of the operators; from 20 on GELU is one of them."""
INLINE = 3 * 2**29
"""Bytes of weights up to which they lie in the graph's own file, which may have 2 GiB."""
_ROWS, _MORE = 3, 64


@dataclass(frozen=True, slots=True)
class Graph:
    """What was written of a tower.

    Attributes:
        path: of the file.
        any_size: whether its images may have any size.
    """

    path: Path
    any_size: bool = False


class _Images(nn.Module):
    """Normalised pixels to rows; a wrapped tower is not asked for its one size."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = cast(Any, model)

    def forward(self, pixel_values: Tensor) -> Tensor:
        if isinstance(self.model, WrappedEncoder):
            return self.model.image_features(pixel_values)
        return self.model.encode_image(pixel_values).pooled


class _Texts(nn.Module):
    """Token ids, zero after the end, to rows."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = cast(Any, model)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model.encode_text(input_ids).pooled


def write_graph(model: DualEncoder, side: Side, path: Path) -> Graph:
    """Write one tower: any number of rows, texts of any length, images of any size where the tower takes them.

    Args:
        model: any that ``tether.load`` gives, or around one, in float32 on the CPU.
        side: which tower.
        path: new file; weights past ``INLINE`` lie beside it in ``<name>.data``.

    Raises:
        InputError: the tower cannot be exported; it says which and why.
        MissingExtraError: ``onnx`` or ``onnxscript`` is not installed.
    """
    module = _Images(model) if side == "image" else _Texts(model)
    tries = [False]
    if side == "image" and isinstance(model, WrappedEncoder) and model.stride is None and not _pads_by_size(model):
        tries = [True, False]  # a convolutional network may take any size; whether this one does, trying tells
    for any_size in tries:
        try:
            _write(module.eval(), side, path, example=_example(model, side), any_size=any_size)
        except Exception as error:
            if isinstance(error, MissingExtraError) or not is_fault(error):
                raise
            if any_size:
                continue
            raise InputError(
                f"export: the {side} tower ({_name(model)}) cannot be exported to ONNX: {_reason(error)}"
            ) from error
        return Graph(path, any_size=any_size)
    raise AssertionError


def example_ids(model: DualEncoder, *, rows: int, length: int) -> Tensor:
    """(rows, length) ids as a tokenizer gives them: between the first and the last id of its empty text, any others.

    A model without a tokenizer has any ids, the last the one that it ends texts with, where it says so.
    """
    first, last = _ends(model)
    drawn = torch.randint(
        1, model.tokenizer.vocab_size, (rows, length), generator=torch.Generator().manual_seed(length)
    )
    for taken in (first, last):  # an end token in the middle would be the end
        if taken is not None:
            drawn[drawn == taken] = next(id_ for id_ in (1, 2, 3) if id_ not in (first, last))
    if first is not None:
        drawn[:, 0] = first
    if last is not None:
        drawn[:, -1] = last
    return drawn


def _ends(model: DualEncoder) -> tuple[int | None, int | None]:
    try:
        ids = model.tokenizer([""])
        row = ids[0, : int(lengths(ids)[0])].tolist() if ids.shape[1] else []
    except InputError:
        row = []
    if len(row) > 1:
        return row[0], row[-1]
    text = getattr(getattr(model, "config", None), "text", None)
    return None, row[-1] if row and row[-1] else getattr(text, "end", None)


def _example(model: DualEncoder, side: Side) -> Tensor:
    if side == "image":
        return torch.zeros(_ROWS, 3, *model.image_spec.size)
    return example_ids(model, rows=_ROWS, length=max(4, model.tokenizer.context_length // 2))


def _pads_by_size(model: nn.Module) -> bool:
    """Whether margins depend on the size, as in EfficientNets of timm: tracing them for any takes minutes."""
    return any(type(part).__name__.endswith("2dSame") for part in model.modules())


def _write(module: nn.Module, side: Side, path: Path, *, example: Tensor, any_size: bool) -> None:
    _check_installed()
    dynamic = torch.export.Dim.DYNAMIC
    moving = (0, 2, 3) if any_size else (0,) if side == "image" else (0, 1)
    size = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    with quiet(), torch.no_grad(), eval_mode(module), at_rest(module):
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=(dict.fromkeys(moving, dynamic),),
            input_names=[INPUTS[side]],
            output_names=[OUTPUTS[side]],
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        _forget(program.model)
        program.save(path, external_data=size > INLINE)


def _forget(model: Any) -> None:
    """Take out what the exporter records of the machine: stack traces with its paths, and names of its modules."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _check_installed() -> None:
    for name in ("onnx", "onnxscript"):
        try:
            __import__(name)
        except ImportError:
            raise MissingExtraError(name, extra="onnx") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, the libraries neither warn of their own deprecations nor report every stage, nor print whole graphs."""
    with quiet_logging(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield


def _name(model: DualEncoder) -> str:
    inner = getattr(model, "model", None)
    return type(model).__name__ if inner is None else f"{type(model).__name__} of {type(inner).__name__}"


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(_COLOURS.sub("", str(error)).split())
    return f"{said:.300}" if isinstance(error, InputError) else f"{type(error).__name__}: {said:.300}"

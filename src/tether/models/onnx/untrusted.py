"""Graphs from anyone's folder: what is refused before a runtime opens them."""

from __future__ import annotations

import math
import re
import xml.parsers.expat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_bytes
from tether.core.errors import InputError, MissingExtraError, refusing

MAX_GRAPH_BYTES = 2**31
"""Of an ONNX file; protocol buffers end there."""
MAX_XML_BYTES = 2**26
MAX_NODES = 2**17
MAX_ELEMENTS = 2**31
"""Numbers of one inner tensor for one image or text."""
_DOMAINS = ("", "ai.onnx")
_SMALL = 1024
"""Numbers up to which a constant's values are kept while shapes are inferred."""
_RUNS_GRAPHS = ("If", "Loop", "Scan", "SequenceMap", "TensorIterator")


def check_onnx(path: Path) -> list[Path]:
    """Refuse an ONNX file that reaches out of its folder, needs foreign code, may never end or is too large.

    Returns:
        The files of weights beside it that it names.

    Raises:
        InputError: any of these, or no ONNX file; it says what.
        MissingExtraError: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", extra="onnx") from None
    data = read_bytes(path, limit=MAX_GRAPH_BYTES)
    with refusing(f"{path}: not a whole ONNX file ({len(data):,} bytes)"):
        model = onnx.load_model_from_string(data)
    nodes = list(model.graph.node)
    if not nodes or not model.opset_import:
        raise InputError(f"{path}: not a whole ONNX file ({len(data):,} bytes): it has no graph")
    if len(nodes) > MAX_NODES:
        raise InputError(f"{path}: {len(nodes):,} nodes; at most {MAX_NODES:,} are taken")
    for node in nodes:
        if node.domain not in _DOMAINS:
            raise InputError(f"{path}: operator {node.op_type!r:.80} of {node.domain!r:.80}; custom ones are never run")
        if node.op_type in _RUNS_GRAPHS:
            raise InputError(f"{path}: operator {node.op_type!r:.80} runs graphs of its own, which no tower needs")
    if model.functions:
        raise InputError(f"{path}: has functions of its own, which no tower needs")
    beside = {_beside(tensor, path) for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL}
    _check_shapes(onnx, model, path)
    return sorted(beside)


def check_openvino(path: Path) -> list[Path]:
    """The same of OpenVINO's ``.xml``, with its ``.bin``."""
    data, beside = read_bytes(path, limit=MAX_XML_BYTES), path.with_suffix(".bin")
    if beside.is_symlink() or not beside.is_file():
        raise InputError(f"{beside}: no such file, or a link; {path.name} needs it")
    available, layers = beside.stat().st_size, 0

    def doctype(*_: object) -> None:
        raise InputError(f"{path}: has a document type, which is refused")

    def element(name: str, given: dict[str, str]) -> None:
        nonlocal layers
        if name == "layer":
            layers += 1
            kind, version = given.get("type", ""), given.get("version", "")
            if not re.fullmatch(r"opset\d{1,2}", version):
                raise InputError(f"{path}: layer {kind!r:.80} of {version!r:.80}; custom ones are never run")
            if kind in _RUNS_GRAPHS:
                raise InputError(f"{path}: layer {kind!r:.80} runs graphs of its own, which no tower needs")
        if name == "data" and "offset" in given:
            end = sum(_number(given.get(key), f"{path}: {key}") for key in ("offset", "size"))
            if end > available:
                raise InputError(f"{beside}: truncated: {available:,} bytes, {path.name} asks for {end:,}")

    parser = xml.parsers.expat.ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler = doctype, element
    try:
        parser.Parse(data, True)
    except xml.parsers.expat.ExpatError as error:
        raise InputError(f"{path}: not a whole file of OpenVINO: {error}") from None
    if not 0 < layers <= MAX_NODES:
        raise InputError(f"{path}: {layers:,} layers; expected 1 to {MAX_NODES:,}")
    return [beside]


def _number(value: str | None, where: str) -> int:
    if value is None or not re.fullmatch(r"\d{1,18}", value):
        raise InputError(f"{where}: expected a whole number, got {value!r:.80}")
    return int(value)


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors


def _beside(tensor: Any, path: Path) -> Path:
    """The file of an external tensor: one in the folder itself, and long enough."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    name = said.get("location", "")
    if not name or name in (".", "..") or Path(name).name != name or "\\" in name or ":" in name:
        raise InputError(f"{path}: weights in {name!r:.200}; expected a file in the same folder")
    file = path.parent / name
    if file.is_symlink() or not file.is_file():
        raise InputError(f"{file}: no such file, or a link; {path.name} needs it")
    offset = _number(said.get("offset", "0"), f"{path}: offset")
    end = offset + _number(said.get("length", "0"), f"{path}: length")
    if end > file.stat().st_size:
        raise InputError(f"{file}: truncated: {file.stat().st_size:,} bytes, {path.name} asks for {end:,}")
    return file


def _check_shapes(onnx: Any, model: Any, path: Path) -> None:
    """Refuse a graph that makes something huge of something small; sizes that depend on the input count as 1."""
    outline = onnx.ModelProto()
    outline.CopyFrom(model)
    for tensor in outline.graph.initializer:
        if math.prod(tensor.dims) > _SMALL:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "external_data"):
                tensor.ClearField(field)
            tensor.ClearField("data_location")
    with refusing(f"{path}: its shapes do not fit"):
        found = onnx.shape_inference.infer_shapes(outline, data_prop=True)
    for value in [*found.graph.value_info, *found.graph.input, *found.graph.output]:
        count = math.prod(max(1, side.dim_value) for side in value.type.tensor_type.shape.dim)
        if count > MAX_ELEMENTS:
            raise InputError(f"{path}: {value.name!r:.80} has {count:,} numbers; at most {MAX_ELEMENTS:,} are taken")

"""Graphs from anyone's folder: what is refused before a runtime opens them."""

from __future__ import annotations

import math
import re
import xml.parsers.expat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_bytes
from tether.core.errors import InputError, MissingExtraError, refusing

MAX_GRAPH_BYTES = 2**31
"""Of an ONNX file; protocol buffers end there."""
MAX_XML_BYTES = 2**26
MAX_NODES = 2**17
MAX_ELEMENTS = 2**27
"""Numbers of one inner tensor for one image or text of the largest size."""
MAX_IN_ALL = 2**32
"""Numbers of all inner tensors together; twice what the largest published tower makes of one image."""
_DOMAINS = ("", "ai.onnx")
_SMALL = 1024
"""Numbers up to which a constant's values are kept while shapes are inferred."""
_ROUNDS = 8
"""Times that shapes are inferred, each with what the one before has told of lengths that depend on shapes."""
_NEVER_LARGER = ("Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose result has no more numbers than they are given, so its shape may stay unknown."""
_RUNS_GRAPHS = ("If", "Loop", "Scan", "SequenceMap", "TensorIterator")


def check_onnx(path: Path, largest: Sequence[int]) -> list[Path]:
    """Refuse an ONNX file that reaches out of its folder, needs foreign code, may never end or makes too much.

    Args:
        path: of the file.
        largest: lengths of its input for one image or text of the largest size.

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
    data = read_bytes(_own(path), limit=MAX_GRAPH_BYTES)
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
    sparse = any(attribute.HasField("sparse_tensor") for node in nodes for attribute in node.attribute)
    if model.functions or model.graph.sparse_initializer or sparse:
        raise InputError(f"{path}: has functions of its own or sparse weights, which no tower needs")
    beside = {_beside(tensor, path) for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL}
    _check_shapes(onnx, model, path, largest)
    return sorted(beside)


def check_openvino(path: Path) -> list[Path]:
    """The same of OpenVINO's ``.xml``, with its ``.bin``; of what its graph makes see ``check_openvino_sizes``."""
    data, beside = read_bytes(_own(path), limit=MAX_XML_BYTES), path.with_suffix(".bin")
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


def check_openvino_sizes(model: Any, path: Path, largest: Sequence[int]) -> None:
    """Refuse a graph that OpenVINO has read and not compiled, whose tensors would be too large; see ``check_onnx``."""
    with refusing(f"{path}: its shapes do not fit"):
        model = model.clone()
        given = _sides(model.inputs[0].get_partial_shape()) or largest
        model.reshape([side or length for side, length in zip(given, largest, strict=True)])
    _bounded(
        path,
        (
            (operator.get_friendly_name(), _sides(output.get_partial_shape()), operator.get_type_name())
            for operator in model.get_ordered_ops()
            for output in operator.outputs()
            if operator.get_type_name() != "Constant"
        ),
    )


def _sides(shape: Any) -> list[int | None] | None:
    if shape.rank.is_dynamic:
        return None
    return [side.get_length() if side.is_static else None for side in shape]


def _own(path: Path) -> Path:
    if path.is_symlink():
        raise InputError(f"{path}: a link; expected the file itself")
    return path


def _number(value: str | None, where: str) -> int:
    if value is None or not re.fullmatch(r"\d{1,18}", value):
        raise InputError(f"{where}: expected a whole number, got {value!r:.80}")
    return int(value)


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
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


def _check_shapes(onnx: Any, model: Any, path: Path, largest: Sequence[int]) -> None:
    """Refuse a graph that makes something huge of such an input, or whose sizes cannot be told before it runs."""
    outline = onnx.ModelProto()
    outline.CopyFrom(model)
    del outline.graph.value_info[:]
    for tensor in outline.graph.initializer:
        if math.prod(tensor.dims) > _SMALL:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "external_data"):
                tensor.ClearField(field)
            tensor.ClearField("data_location")
    for value in outline.graph.input:
        for side, length in zip(value.type.tensor_type.shape.dim, largest, strict=False):
            side.dim_value = side.dim_value or length
    made: list[tuple[str, Sequence[int | None] | None, str]] = []
    shapes: dict[str, list[int | None]] = {}
    with refusing(f"{path}: its shapes do not fit"):
        for _ in range(_ROUNDS):
            shapes = _shapes(onnx, outline)
            lengths = _lengths_of_ranges(onnx, outline)
            made += [(name, [length], "Range") for name, length in lengths.items()]
            if not _give(onnx, outline, lengths) + _keep(onnx, outline, shapes):
                break
    made += [(name, shapes.get(name), node.op_type) for node in outline.graph.node for name in node.output if name]
    _bounded(path, made)


def _bounded(path: Path, made: Iterable[tuple[str, Sequence[int | None] | None, str]]) -> None:
    """Refuse tensors that are too large, or of unknown size; each with its name, shape and operator."""
    total = 0
    for name, sides, operator in made:
        if sides is None or None in sides:
            if operator in _NEVER_LARGER:
                continue
            raise InputError(f"{path}: the size of {name!r:.80} ({operator:.80}) cannot be told before it runs")
        count = math.prod(side or 1 for side in sides)
        total += count
        if count > MAX_ELEMENTS or total > MAX_IN_ALL:
            raise InputError(
                f"{path}: {name!r:.80} has {count:,} numbers, {total:,} with those before it; at most {MAX_ELEMENTS:,} "
                f"and {MAX_IN_ALL:,} are taken"
            )


def _shapes(onnx: Any, outline: Any) -> dict[str, list[int | None]]:
    """Of every tensor whose rank is known; None where a length is not."""
    found = onnx.shape_inference.infer_shapes(outline, data_prop=True).graph
    made = [*found.value_info, *found.output]
    return {value.name: _lengths(value) for value in made if value.type.tensor_type.HasField("shape")}


def _lengths(value: Any) -> list[int | None]:
    sides = value.type.tensor_type.shape.dim
    return [side.dim_value if side.HasField("dim_value") else None for side in sides]


def _lengths_of_ranges(onnx: Any, outline: Any) -> dict[str, int]:
    """How long each ``Range`` is. Inference of shapes does not say; it is asked for tensors as long as its ends."""
    asked = onnx.ModelProto()
    asked.CopyFrom(outline)
    asked.graph.initializer.append(onnx.helper.make_tensor("tether:axis", onnx.TensorProto.INT64, [1], [0]))
    ranges = [node for node in outline.graph.node if node.op_type == "Range"]
    for row, node in enumerate(ranges):
        for column, name in enumerate(node.input):
            length, answer = f"tether:{row}:{column}", f"tether:{row}:{column}:of"
            asked.graph.node.append(onnx.helper.make_node("Unsqueeze", [name, "tether:axis"], [length]))
            asked.graph.node.append(onnx.helper.make_node("ConstantOfShape", [length], [answer]))
    shapes = _shapes(onnx, asked) if ranges else {}
    found: dict[str, int] = {}
    for row, node in enumerate(ranges):
        start, limit, step = ((shapes.get(f"tether:{row}:{column}:of") or [None])[0] for column in range(3))
        if start is not None and limit is not None and step:
            found[node.output[0]] = max(0, -((start - limit) // step))
    return found


def _give(onnx: Any, outline: Any, lengths: Mapping[str, int]) -> int:
    """Put an input of known length in the place of each ``Range``; how many."""
    for node in [node for node in outline.graph.node if node.output and node.output[0] in lengths]:
        outline.graph.node.remove(node)
    for name, length in lengths.items():
        outline.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [length]))
    return len(lengths)


def _keep(onnx: Any, outline: Any, shapes: Mapping[str, list[int | None]]) -> int:
    """Put a constant in the place of each ``Shape`` of a tensor whose shape is known; how many."""
    known = {value.name: shape for value in outline.graph.input if None not in (shape := _lengths(value))}
    known |= {name: shape for name, shape in shapes.items() if None not in shape}
    kept = [node for node in outline.graph.node if node.op_type == "Shape" and node.input[0] in known]
    for node in kept:
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        shape = known[node.input[0]][ends.get("start", 0) : ends.get("end")]
        made = onnx.helper.make_tensor(node.output[0], onnx.TensorProto.INT64, [len(shape)], shape)
        outline.graph.initializer.append(made)
        outline.graph.node.remove(node)
    return len(kept)

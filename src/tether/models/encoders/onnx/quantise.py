"""An ONNX graph with products of 8-bit numbers, its ranges measured on real images or texts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from tether.core.errors import MissingExtraError, refusing
from tether.core.telemetry import telemetry_off
from tether.models.encoders.onnx.graphs import INPUTS, Side, quiet

_PRODUCTS = ("MatMul", "Gemm", "Conv")


def quantise(path: Path, side: Side, *, calibration: Sequence[Tensor]) -> None:
    """Replace a float graph by one whose products with weights are of 8-bit numbers.

    Weights have a scale for each output channel and 7 bits of their 8, so that processors without VNNI do not
    overflow; what they are multiplied with has one scale for all, from the ranges that ``calibration`` shows. Sums stay
    in float, and so do attention, norms and the last projection, whose rounding nothing later would even out.

    Args:
        path: of the graph, which is replaced.
        side: whose tower it is.
        calibration: batches of its input.

    Raises:
        InputError: onnxruntime cannot do it.
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    telemetry_off()
    try:
        import onnx
        import onnxruntime
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise MissingExtraError(error.name or "onnxruntime", extra="onnx") from None
    where = f"export: {path.name} cannot be made int8"
    with tempfile.TemporaryDirectory(dir=path.parent) as name, refusing(where), quiet():
        folded, made = Path(name) / "folded.onnx", Path(name) / "int8.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath, options.log_severity_level = str(folded), 4
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(folded, load_external_data=False).graph
        quantize_static(
            folded,
            made,
            cast(Any, _Batches(side, calibration)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_PRODUCTS),
            nodes_to_exclude=_in_float(graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": list(_PRODUCTS)},
        )
        made.replace(path)


def _in_float(graph: Any) -> list[str]:
    """Names of the products that stay: of two activations, and the last, which gives the embedding."""
    constant = {value.name for value in graph.initializer}
    products = [node for node in graph.node if node.op_type in _PRODUCTS]
    free = [node.name for node in products if node.input[1] not in constant]
    weighted = [node.name for node in products if node.input[1] in constant]
    return [*free, *weighted[-1:]]


class _Batches:
    """What onnxruntime's calibration asks for its input."""

    def __init__(self, side: Side, batches: Sequence[Tensor]) -> None:
        self._name, self._left = INPUTS[side], self._all(batches)

    def _all(self, batches: Sequence[Tensor]) -> Iterator[dict[str, np.ndarray]]:
        for batch in batches:
            yield {self._name: batch.numpy()}

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)

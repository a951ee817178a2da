"""One graph in a runtime: arrays in, arrays out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tether.core.errors import InputError, MissingExtraError, refusing
from tether.core.telemetry import telemetry_off
from tether.models.encoders.onnx.description import Runtime
from tether.models.encoders.onnx.untrusted import check_onnx, check_openvino, check_openvino_sizes

Run = Callable[[np.ndarray], np.ndarray]
_CHUNK = 2**22


class GraphTower(nn.Module):
    """A graph of one input and one output, as a module whose state is the digest of its files.

    So every digest of a model that holds it tells it from others. It runs on the CPU, wherever what it is given lies,
    and has no gradients.
    """

    sha256: Tensor

    def __init__(
        self, path: Path, *, runtime: Runtime, shape: Sequence[int | None], largest: Sequence[int], dim: int
    ) -> None:
        """Check the file and open it.

        Args:
            path: of the graph.
            runtime: what opens it.
            shape: of its input; None where any length goes.
            largest: shape of its input for one row, as large as rows come; what a graph makes of it is bounded.
            dim: length of a row of its output.

        Raises:
            InputError: see ``untrusted``, or a graph of another input or output.
            MissingExtraError: the runtime is not installed.
        """
        super().__init__()
        self.dim = dim
        if runtime == "onnx":
            beside = check_onnx(path, largest)
            self.run, inside, outside = open_onnx(path)
        else:
            beside = check_openvino(path)
            self.run, inside, outside = open_openvino(path, largest)
        if inside[1:] != list(shape[1:]):
            raise InputError(f"{path}: its input is {_shown(inside)}, expected {_shown(shape)}")
        if outside[1:] not in ([dim], [None]):
            raise InputError(f"{path}: its output is {_shown(outside)}, expected {_shown((None, dim))}")
        found = hashlib.sha256()
        for file in (path, *beside):
            with file.open("rb") as opened_file:
                while data := opened_file.read(_CHUNK):
                    found.update(data)
        self._opened_with = {"runtime": runtime, "shape": tuple(shape), "largest": tuple(largest), "dim": dim}
        self.register_buffer("sha256", torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8))
        self.name = str(path)

    def forward(self, rows: Tensor) -> Tensor:
        """(b, ...) to (b, dim) float32, where ``rows`` lie."""
        if not len(rows):
            return torch.empty(0, self.dim, device=rows.device)
        with refusing(f"{self.name}: could not run"):
            found = self.run(np.ascontiguousarray(rows.detach().cpu().numpy()))
        if found.shape != (len(rows), self.dim):
            raise InputError(f"{self.name}: gave {found.shape}, expected {(len(rows), self.dim)}")
        return torch.from_numpy(np.array(found, np.float32)).to(rows.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphTower:
        """Itself: it never changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file."""
        return _reopened, (Path(self.name).absolute(), self._opened_with)


def _reopened(path: Path, settings: dict[str, Any]) -> GraphTower:
    return GraphTower(path, **settings)


def open_onnx(path: Path) -> tuple[Run, list[int | None], list[int | None]]:
    """A function that runs an ONNX file on as many threads as torch, and the lengths of its input and output."""
    telemetry_off()
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", extra="onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    with refusing(f"{path}: onnxruntime cannot open it"):
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given, made = _only(session.get_inputs(), session.get_outputs(), path)
    inside, outside = ([side if isinstance(side, int) else None for side in part.shape] for part in (given, made))
    return lambda rows: session.run([made.name], {given.name: rows})[0], inside, outside


def open_openvino(path: Path, largest: Sequence[int]) -> tuple[Run, list[int | None], list[int | None]]:
    """The same of OpenVINO's files; products stay in float32 where the processor would take bfloat16."""
    core = openvino_core()
    with refusing(f"{path}: openvino cannot open it"):
        model = core.read_model(path)
    check_openvino_sizes(model, path, largest)
    with refusing(f"{path}: openvino cannot open it"):
        made = core.compile_model(model, "CPU", SETTINGS | {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    shapes = [part.partial_shape for part in _only(model.inputs, model.outputs, path)]
    inside, outside = ([side.get_length() if side.is_static else None for side in shape] for shape in shapes)
    return lambda rows: made(rows)[0], inside, outside


SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}


def openvino_core() -> Any:
    """OpenVINO's entry, without its telemetry."""
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", extra="openvino") from None
    return openvino.Core()


def _only(inputs: Sequence[Any], outputs: Sequence[Any], path: Path) -> tuple[Any, Any]:
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
    return inputs[0], outputs[0]


def _shown(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"

"""The whole exported folder: graphs, tokenizer, description, script, parity and card, written at once or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from tether.core.atomic_io import atomic_folder, local, write_json, write_text
from tether.core.errors import InputError, WriteError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.models.encoders.onnx.card import card
from tether.models.encoders.onnx.description import CONFIG_FILE, ENDINGS, Description, Runtime
from tether.models.encoders.onnx.encoder import ExportedEncoder, load_exported
from tether.models.encoders.onnx.graphs import Side, write_graph
from tether.models.encoders.onnx.parity import check_parity, drawn_parity
from tether.models.encoders.onnx.quantise import quantise
from tether.models.encoders.onnx.sessions import openvino_core
from tether.models.encoders.onnx.tokenizer_json import write_tokenizer_json

PARITY_FILE, CARD_FILE, SCRIPT = "parity.json", "README.md", "run.py"
Measure = Callable[[ExportedEncoder], Mapping[str, Any]]


def export_graphs(
    model: DualEncoder,
    folder: str | Path,
    *,
    runtime: Runtime = "onnx",
    calibration: Mapping[Side, Sequence[Tensor]] | None = None,
    measure: Measure | None = None,
) -> Path:
    """Write a model as a folder that runs without torch.

    Args:
        model: any that ``tether.load`` gives, or around one, in float32 on the CPU.
        folder: where to; absent or empty.
        runtime: ``onnx`` for onnxruntime, or ``openvino``.
        calibration: batches of normalised pixels and of ids, from which the ranges of an int8 folder are taken; None
            for float32.
        measure: asked about the finished encoder; what it gives stands in ``parity.json``, and where it raises nothing
            is left.

    Returns:
        The folder.

    Raises:
        InputError: a tower that cannot be exported, or a float32 graph that gives other embeddings.
        MissingExtraError: a library is missing.
        WriteError: the disk is full or the folder cannot be written.
    """
    folder = local(folder)
    if isinstance(model, ExportedEncoder):
        raise InputError("export: the model is an exported folder already; copy it")
    if not isinstance(model, nn.Module) or not isinstance(model, DualEncoder):
        raise InputError(f"export: expected a model of tether.load or create, got {type(model).__name__}")
    if model.logit_scale.device.type != "cpu" or str(model.logit_scale.dtype) != "torch.float32":
        found = f"{model.logit_scale.dtype} on {model.logit_scale.device}"
        raise InputError(f"export: expected a model in float32 on the CPU, got {found}; load it so")
    if runtime == "openvino":
        openvino_core()  # missing is told before any work
    try:
        with atomic_folder(folder, replace=True) as new:
            _fill(cast(DualEncoder, model), new, runtime=runtime, calibration=calibration, measure=measure)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(folder, error) from error
    return folder


def _fill(
    model: DualEncoder,
    folder: Path,
    *,
    runtime: Runtime,
    calibration: Mapping[Side, Sequence[Tensor]] | None,
    measure: Measure | None,
) -> None:
    any_size, files = False, {}
    for side in ("image", "text"):
        graph = write_graph(model, side, folder / f"{side}.onnx")
        any_size = any_size or graph.any_size
        if calibration is not None:
            quantise(graph.path, side, calibration=calibration[side])
        if runtime == "openvino":
            _convert(graph.path)
        files[side] = f"{side}{ENDINGS[runtime]}"
    kind, why = write_tokenizer_json(model.tokenizer, folder)
    geometry, bias = geometry_of(model), model.logit_bias
    curvature = None if geometry.curvature is None else float(geometry.detached().curvature or 0)
    templates = getattr(model, "templates", None)
    described = Description(
        runtime=runtime,
        precision="float32" if calibration is None else "int8",
        files=files,
        dim=model.dim,
        logit_scale=float(model.logit_scale.detach()),
        logit_bias=None if bias is None else float(bias.detach()),
        geometry=geometry.name,
        curvature=curvature,
        image=model.image_spec.fixed(),
        any_size=any_size,
        context=model.tokenizer.context_length,
        vocabulary=model.tokenizer.vocab_size,
        tokenizer=kind,
        templates=None if templates is None else tuple(templates),
        exported_from=type(model).__name__,
    )
    write_json(folder / CONFIG_FILE, described.to_dict())
    exported = load_exported(folder)
    drawn = drawn_parity(model, exported)
    if calibration is None:
        check_parity(drawn)
    parity = {"precision": described.precision, "runtime": runtime, "drawn": drawn}
    parity |= {} if measure is None else measure(exported)
    write_json(folder / PARITY_FILE, parity)
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
    write_text(folder / CARD_FILE, card(described, parity, why=why))


def _convert(path: Path) -> None:
    """An ONNX file to OpenVINO's two, in its place."""
    import openvino

    model = openvino.convert_model(path)
    openvino.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
    for file in (path, path.with_name(f"{path.name}.data")):
        file.unlink(missing_ok=True)

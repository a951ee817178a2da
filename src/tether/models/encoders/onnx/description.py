"""What an exported folder says of itself: ``tether_config.json``, in plain values that need no library."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tether.core.atomic_io import read_json
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.models.config_check import blamed_on, mapping, of_kind, size_of
from tether.models.encoders.onnx.graphs import Side
from tether.models.model_uri import EXPORTED_FILE as CONFIG_FILE
from tether.models.towers.config import read_image

FORMAT, VERSION = "tether-exported", 1
Runtime = Literal["onnx", "openvino"]
Precision = Literal["float32", "int8"]
TokenizerKind = Literal["clip", "json", "none"]
ENDINGS: Mapping[Runtime, str] = {"onnx": ".onnx", "openvino": ".xml"}
MAX_DIM, MAX_CONTEXT, MAX_VOCABULARY = 2**16, 2**14, 2**22
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A folder's ``tether_config.json``.

    Attributes:
        runtime: what runs the graphs.
        precision: of their products.
        files: the graph of each side.
        dim: length of an embedding.
        logit_scale: multiplier of cosines.
        logit_bias: offset of the logits, or None.
        geometry: name of what embeddings are compared with.
        curvature: of a hyperbolic geometry, or None.
        image: how images are prepared.
        any_size: whether images of other sizes may be given than ``image.size``.
        context: longest text in ids.
        vocabulary: number of ids.
        tokenizer: ``clip``: CLIP's own, also in ``tokenizer.json``; ``json``: in ``tokenizer.json`` alone; or ``none``.
        templates: prompts of class names where the model has its own, or None.
        exported_from: class of the model.
    """

    runtime: Runtime
    precision: Precision
    files: Mapping[Side, str]
    dim: int
    logit_scale: float
    logit_bias: float | None
    geometry: str
    curvature: float | None
    image: ImageSpec
    any_size: bool
    context: int
    vocabulary: int
    tokenizer: TokenizerKind
    templates: tuple[str, ...] | None
    exported_from: str

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "runtime": self.runtime,
            "precision": self.precision,
            "files": dict(self.files),
            "dim": self.dim,
            "logit_scale": self.logit_scale,
            "logit_bias": self.logit_bias,
            "geometry": self.geometry,
            "curvature": self.curvature,
            "image": {**dataclasses.asdict(self.image), "any_size": self.any_size},
            "text": {"context": self.context, "vocabulary": self.vocabulary, "pad": 0, "tokenizer": self.tokenizer},
            "templates": None if self.templates is None else list(self.templates),
            "exported_from": self.exported_from,
        }


def read_description(folder: Path) -> Description:
    """The description of anyone's folder, every value checked.

    Raises:
        InputError: not such a file, or a value that cannot be; it names the file and the value.
    """
    path = folder / CONFIG_FILE
    values = mapping(read_json(path), where=str(path))
    if values.get("format") != FORMAT:
        raise InputError(f"{path}: expected 'format': {FORMAT!r}; this does not describe an exported model")
    if values.get("version") != VERSION:
        raise InputError(f"{path}: version {values.get('version')!r:.100}; this tether reads version {VERSION}")
    with blamed_on(path):
        runtime = _one_of(values.get("runtime"), Runtime, where="runtime")
        files = mapping(values.get("files"), where="files")
        image = dict(mapping(values.get("image"), where="image"))
        text = mapping(values.get("text"), where="text")
        any_size = of_kind(image.pop("any_size", False), bool, where="image.any_size")
        templates, bias, curvature = values.get("templates"), values.get("logit_bias"), values.get("curvature")
        if text.get("pad") != 0:
            raise InputError(f"text.pad: expected 0, got {text.get('pad')!r:.100}")
        return Description(
            runtime=runtime,
            precision=_one_of(values.get("precision"), Precision, where="precision"),
            files={side: _file(files.get(side), side, ENDINGS[runtime]) for side in get_args(Side)},
            dim=size_of(values.get("dim"), most=MAX_DIM, where="dim"),
            logit_scale=float(of_kind(values.get("logit_scale"), float, where="logit_scale")),
            logit_bias=None if bias is None else float(of_kind(bias, float, where="logit_bias")),
            geometry=of_kind(values.get("geometry"), str, where="geometry"),
            curvature=None if curvature is None else float(of_kind(curvature, float, where="curvature")),
            image=read_image(image, where="image"),
            any_size=any_size,
            context=size_of(text.get("context"), most=MAX_CONTEXT, where="text.context"),
            vocabulary=size_of(text.get("vocabulary"), most=MAX_VOCABULARY, where="text.vocabulary"),
            tokenizer=_one_of(text.get("tokenizer"), TokenizerKind, where="text.tokenizer"),
            templates=None if templates is None else _templates(templates),
            exported_from=of_kind(values.get("exported_from"), str, where="exported_from"),
        )


def _one_of(value: Any, choices: Any, *, where: str) -> Any:
    if not isinstance(value, str) or value not in get_args(choices):
        raise InputError(f"{where}: unknown {value!r:.100}; {closest(str(value), get_args(choices))}")
    return value


def _file(value: Any, side: str, ending: str) -> str:
    """The name of a file in the folder itself: no path, nothing hidden."""
    name = of_kind(value, str, where=f"files.{side}")
    if not _PLAIN_NAME.fullmatch(name) or not name.endswith(ending):
        raise InputError(
            f"files.{side}: expected the name of a file in the folder that ends in {ending}, got {name!r:.100}"
        )
    return name


def _templates(values: Any) -> tuple[str, ...]:
    found = [of_kind(value, str, where="templates") for value in of_kind(values, list, where="templates")]
    if not found or not all("{}" in value for value in found):
        raise InputError("templates: expected prompts with {} for the class name")
    return tuple(found)

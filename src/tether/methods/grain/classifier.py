"""Classes by what is said of them, and the regions that a model with a decoder of regions finds in images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from tether.core.atomic_io import csv_file
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, checked
from tether.data.bad_rows import BadRows
from tether.data.images import decode, fitted
from tether.data.in_order import ordered
from tether.models.embed import encode_texts
from tether.models.heads.grounded import ground
from tether.tasks.classify.descriptions import Mean, descriptions_of
from tether.tasks.classify.prompts import SLOT, checked_templates, classes_of, own_templates
from tether.tasks.classify.zero_shot import ZeroShotClassifier

_IS, _AS_IT_IS = (
    ("a ", "an ", "the ", "used "),
    ("has ", "is ", "are ", "can ", "may ", "often ", "usually ", "typically "),
)


def with_description(prompt: str, *, description: str) -> str:
    """A prompt that says what its class has or is, before a full stop that may stand at its end.

    Example:
        >>> with_description("a photo of a hen.", description="two legs")
        'a photo of a hen, which has two legs.'
        >>> with_description("a hen", description="a bird")
        'a hen, which is a bird'
    """
    words = description.strip().rstrip(".")
    low = words.lower()
    if not low.startswith(_AS_IT_IS):
        words = f"{'is' if low.startswith(_IS) else 'has'} {words}"
    stop = "." if prompt.endswith(".") else ""
    return f"{prompt.removesuffix('.')}, which {words}{stop}"


def zero_shot_with_descriptions(
    model: DualEncoder,
    descriptions: Mapping[str, Sequence[str]],
    *,
    templates: Sequence[str] | None = None,
    mean: Mean = "raw",
) -> ZeroShotClassifier:
    """A classifier whose prompts also say what each class has or is (arXiv 2412.04429).

    Each prompt is a template with the name and a description; unit embeddings are averaged over all prompts of a class.
    GRAIN does not make the mean a unit row again (``raw``), so a class whose prompts agree scores higher; ``unit``
    does.

    Args:
        model: any of ``tether.load``; one with a decoder of regions looks through it.
        descriptions: a list for each class.
        templates: sentences with ``{}`` where the name goes; None takes those that suit the model.
        mean: see above.

    Returns:
        The classifier, prepared: ``predict(image)``.

    Raises:
        InputError: no class, one without descriptions, or a description that is no text.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.grain.classifier import zero_shot_with_descriptions
        >>> said = {"hen": ["two legs", "a red comb"], "cow": ["horns"]}
        >>> head = zero_shot_with_descriptions(create("tiny").eval(), said)
        >>> head.predict(torch.rand(3, 3, 32, 32)).cosine.shape
        torch.Size([3, 2])
    """
    forms = own_templates(model) if templates is None else checked_templates(templates, where="templates")
    texts = {
        name: [with_description(form.replace(SLOT, name), description=one) for form in forms for one in some]
        for name, some in descriptions_of(descriptions).items()
    }
    return ZeroShotClassifier(descriptions=texts, mean=mean).prepare(model, list(texts))


@dataclass(frozen=True, slots=True)
class Region:
    """A region that was found in an image.

    Attributes:
        key: of the image.
        box: x0, y0, x1, y1 in pixels of the image as it lies upright.
        score: cosine with the description; with none, with the image's own row.
        description: the phrase most like it; empty where none were given.
    """

    key: str
    box: tuple[float, float, float, float]
    score: float
    description: str


@checked
def propose_regions(
    source: Source, *, model: DualEncoder, bad: BadRows, phrases: Sequence[str] | None = None, batch_size: Count = 64
) -> Iterator[Region]:
    """The regions of each good image of a source, best first, as many as the decoder has queries.

    Args:
        source: where the images come from.
        model: a ``grounded`` encoder.
        bad: the account of rows that are skipped.
        phrases: what regions may be; None names none.
        batch_size: images in one forward.

    Raises:
        InputError: a model without a decoder of regions, a phrase that is none, or no good row.
    """
    names = None if phrases is None else checked_phrases(phrases)
    said = None if names is None else F.normalize(encode_texts(model, names, batch_size=batch_size), dim=1)
    found_any = False
    for rows, pixels in ordered(source, image_spec=model.image_spec, batch_size=batch_size, on_bad=bad):
        with torch.inference_mode():
            found = ground(model, pixels.to(model.logit_scale.device))
            regions = F.normalize(found.regions.float().cpu(), dim=2)
            whole = F.normalize(found.image.float().cpu(), dim=1)[:, :, None]
            scores, which = (regions @ (whole if said is None else said.T)).max(dim=2)
        centre, half = found.boxes.cpu()[..., :2], found.boxes.cpu()[..., 2:] / 2
        boxes = torch.cat([centre - half, centre + half], dim=2).clamp(0, 1)
        for row, box, score, best in zip(rows, boxes, scores, which, strict=True):
            assert row.image is not None  # it was read
            height, width = decode(row.image, name=row.key).shape[1:]
            x0, y0, x1, y1 = fitted(height, width, model.image_spec).box
            scale, start = torch.tensor([x1 - x0, y1 - y0] * 2), torch.tensor([x0, y0] * 2)
            placed = (start + scale * box).clamp(0, 1) * torch.tensor([width, height] * 2)
            for place in score.argsort(descending=True, stable=True).tolist():
                text = "" if names is None else names[int(best[place])]
                a, b, c, d = placed[place].tolist()
                yield Region(row.key, (a, b, c, d), float(score[place]), text)
        found_any = True
    if not found_any:
        raise InputError(f"{source.name}: {bad.nothing_good()}")


def write_regions(regions: Iterable[Region], path: str | Path, *, raw_csv: bool = False) -> None:
    """Regions as a CSV file with the columns ``key``, ``x0``, ``y0``, ``x1``, ``y1``, ``score``, ``description``.

    Args:
        regions: of ``propose_regions``.
        path: of the file, which appears whole or not at all.
        raw_csv: as in ``classify.write_csv``.
    """
    columns = ["key", "x0", "y0", "x1", "y1", "score", "description"]
    with csv_file(path, columns, raw_csv=raw_csv) as table:
        for one in regions:
            table.write([one.key, *(f"{value:.2f}" for value in one.box), f"{one.score:.6f}", one.description])


def checked_phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """Phrases, at least one, each a text.

    Raises:
        InputError: otherwise.
    """
    try:
        return classes_of(list(phrases))
    except InputError as error:
        raise InputError(f"phrases: {error}") from error

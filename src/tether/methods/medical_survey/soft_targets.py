"""Pictures and reports that share findings are no negatives: soft targets from finding vectors (MedCLIP family)."""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Positive, checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_cosine, check_unit_lengths, check_unit_pairs, unit_rows
from tether.losses.positive_override import products

FINDINGS, TEXT_FINDINGS = "findings", "text_findings"
"""Where a batch's extra holds the finding vectors of the images, and of the texts where those differ."""
TAU = 0.07
"""Temperature of arXiv 2103.00020, section 2.4, at the start."""

Form = Literal["softmax", "shares"]


def finding_similarity(left: Tensor, *, right: Tensor) -> Float[Tensor, "b n"]:
    """Cosine of the finding vectors of b images and n reports; 0 where either has no finding.

    A finding that is uncertain (-1) or unknown (NaN) on either side of a pair is left out of that pair's cosine, and
    is not taken for absent.

    Source: arXiv 2312.07353, on false negatives.

    Args:
        left: (b, k) findings of each image: 0 absent, above 0 present, -1 or NaN uncertain.
        right: (n, k) the same findings of each report.
    """
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1] or not left.shape[1]:
        raise InputError(
            f"expected finding vectors (b, k) and (n, k), got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    one, sure_one = _split(left, name="left")
    two, sure_two = _split(right.to(left.device), name="right")
    both = products(one, two)
    lengths = products(one.square(), sure_two).sqrt() * products(sure_one, two.square()).sqrt()
    return torch.where(lengths > 0, both / torch.where(lengths > 0, lengths, 1.0), 0.0)


@checked
def soft_targets(
    left: Tensor, *, right: Tensor, form: Form = "softmax", temperature: Positive = 1.0
) -> Float[Tensor, "b n"]:
    """Targets of each image among all reports, rows that add up to 1.

    Args:
        left: (b, k) findings of each image, see ``finding_similarity``.
        right: (n, k) findings of each report.
        form: ``softmax`` of the cosines, as published, which is almost even: a report that shares every finding gets
            e times the share of one that shares none. ``shares`` divides the cosines by their sum, so that reports
            without a common finding get nothing.
        temperature: the cosines are divided by it before the softmax; 1 as published.
    """
    cosine = finding_similarity(left, right=right)
    if form == "softmax":
        return (cosine / temperature).softmax(dim=1)
    total = cosine.sum(dim=1, keepdim=True)
    return torch.where(total > 0, cosine / torch.where(total > 0, total, 1.0), 1.0 / cosine.shape[1])


def soft_target_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "n d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    targets: Float[Tensor, "b n"],
    text_targets: Float[Tensor, "n b"],
) -> Float[Tensor, ""]:
    """Cross-entropy of ``softmax(logit_scale * img @ txt.T)`` against given targets, mean of both directions.

    Images and texts need not be pairs, nor as many: whoever shares findings is pulled together.

    Source: arXiv 2312.07353, on false negatives.

    Args:
        img: rows of length 1.
        txt: rows of length 1.
        logit_scale: multiplier of the cosines, 1 / tau.
        targets: what each image should give each text; rows add up to 1.
        text_targets: what each text should give each image; rows add up to 1.
    """
    _check_sides(img, txt, targets, text_targets)
    logits = logit_scale * products(img, txt)
    return (_cross_entropy(logits, targets).mean() + _cross_entropy(logits.T, text_targets).mean()) / 2


@final
class SoftTargetContrastive:
    """A contrastive objective whose targets follow the findings: two normal studies do not push each other away.

    ``batch.extra["findings"]`` (b, k) are the findings of the images; ``["text_findings"]`` (b, k) those of the
    texts where they differ, so that images and texts may come from different studies. -1 or NaN is uncertain.
    Give "no finding" an entry of its own, or normal studies have the cosine 0 to everything and an even target.

    Source: arXiv 2312.07353, on false negatives (MedCLIP family).
    """

    @checked
    def __init__(self, *, tau: Positive | None = TAU, form: Form = "softmax", temperature: Positive = 1.0) -> None:
        """Take the settings.

        Args:
            tau: the cosines of embeddings are divided by it; None takes the model's own logit scale.
            form: how cosines of findings become targets, see ``soft_targets``.
            temperature: of the targets, see ``soft_targets``.
        """
        self.tau, self.temperature = tau, temperature
        self.form: Form = form

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's rows; terms are both directions and the logit scale.

        Raises:
            InputError: no finding vectors in the batch, or rows that do not fit.
        """
        check_cosine(out)
        image, text = unit_rows(out.image), unit_rows(out.text)
        check_unit_pairs(image, text)
        of_image = _findings(batch, FINDINGS, rows=len(image)).to(image)
        of_text = of_image
        if TEXT_FINDINGS in batch.extra:
            of_text = _findings(batch, TEXT_FINDINGS, rows=len(text)).to(text)
        scale = out.logit_scale.to(image) if self.tau is None else 1 / self.tau

        def one_way(queries: Tensor, keys: Tensor, own: Tensor, theirs: Tensor) -> Tensor:
            wanted = soft_targets(own, right=gather(theirs), form=self.form, temperature=self.temperature)
            return _cross_entropy(scale * products(queries, gather(keys)), wanted).mean()

        left = one_way(image, text, of_image, of_text)
        right = one_way(text, image, of_text, of_image)
        terms = {
            "image_to_text": left.detach(),
            "text_to_image": right.detach(),
            "logit_scale": out.logit_scale.detach(),
        }
        return Loss((left + right) / 2, terms)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Float[Tensor, " b"]:
    return -(targets.to(logits) * logits.log_softmax(dim=1)).sum(dim=1)


def _split(labels: Tensor, *, name: str) -> tuple[Tensor, Tensor]:
    """Values with 0 for the uncertain, and 1 where they are certain."""
    values = labels if labels.is_floating_point() else labels.float()
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    uncertain = values.isnan() | (values == -1)
    bad = ~uncertain & ~((values >= 0) & values.isfinite())
    if values.device.type == "cpu" and bool(bad.any()):
        raise InputError(f"{name}: expected findings of at least 0, or -1 for uncertain, got {float(values[bad][0])}")
    return values.masked_fill(uncertain, 0.0), (~uncertain).to(values.dtype)


def _findings(batch: Batch, name: str, *, rows: int) -> Tensor:
    found = batch.extra.get(name)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != rows:
        got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"batch.extra[{name!r}]: expected finding vectors ({rows}, k), got {got}")
    return found


def _check_sides(img: Tensor, txt: Tensor, targets: Tensor, text_targets: Tensor) -> None:
    if img.ndim != 2 or txt.ndim != 2 or img.shape[1] != txt.shape[1] or not (len(img) and len(txt)):
        raise InputError(f"expected embeddings (b, d) and (n, d), got {tuple(img.shape)} and {tuple(txt.shape)}")
    for name, given, shape in (
        ("targets", targets, (len(img), len(txt))),
        ("text_targets", text_targets, (len(txt), len(img))),
    ):
        if tuple(given.shape) != shape:
            raise InputError(f"{name}: expected {shape}, got {tuple(given.shape)}")
        sums = given.sum(dim=1)
        if given.device.type == "cpu" and bool(((sums - 1).abs() > 1e-3).any() or (given < 0).any()):
            row = int(((sums - 1).abs() > 1e-3).int().argmax())
            raise InputError(f"{name}: expected rows of at least 0 that add up to 1, row {row} adds up to {sums[row]}")
    check_unit_lengths(img, name="image")
    check_unit_lengths(txt, name="text")

"""What a frozen teacher thinks of every pair of a batch, as a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Positive, checked
from tether.core.types import Loss
from tether.losses.checks import unit_rows
from tether.training.terms.term import LOGIT_SCALE, Term, TermInputs


class TeacherSimilarity(Term):
    """KL divergence from a teacher's softmax over a batch's similarities to the student's, mean of both directions.

    The affinity distillation of TinyCLIP (arXiv 2309.12314, section 3.1). With ``form="cross_entropy"`` and the
    teacher's own scale it is open_clip's ``distill``, of the same gradient.
    """

    @checked
    def __init__(
        self,
        *,
        image: str = "image",
        text: str = "text",
        teacher_image: str = "teacher_image",
        teacher_text: str = "teacher_text",
        temperature: Positive | None = 0.02,
        form: Literal["kl", "cross_entropy"] = "kl",
    ) -> None:
        """Take the views.

        Args:
            image: the student's view of the images.
            text: the student's view of the texts.
            teacher_image: the teacher's.
            teacher_text: the teacher's.
            temperature: the teacher's cosines are divided by it; the student's have its logit scale. None takes the
                teacher's own scale.
            form: the divergence, or the cross-entropy, which is larger by the teacher's entropy.
        """
        self.views = {"image": image, "text": text, "teacher_image": teacher_image, "teacher_text": teacher_text}
        self.temperature, self.form = temperature, form

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: the teacher's own scale is wanted and its images are read by nobody who has one.
        """
        image, text, *teacher = (unit_rows(seen.views[name].features) for name in self.views.values())
        losses = [
            _distance(
                seen.logit_scale * queries @ gather(keys).T,
                self._scale(seen) * teacher_queries @ gather(teacher_keys).T,
                form=self.form,
            )
            for queries, keys, teacher_queries, teacher_keys in (
                (image, text, teacher[0], teacher[1]),
                (text, image, teacher[1], teacher[0]),
            )
        ]
        return (Loss((losses[0] + losses[1]) / 2),)

    def _scale(self, seen: TermInputs) -> Tensor | float:
        """What the teacher's cosines are multiplied by."""
        if self.temperature is not None:
            return 1 / self.temperature
        view = self.views["teacher_image"]
        if LOGIT_SCALE not in seen.views[view].about:
            raise InputError(f"similarity: temperature: expected a number, for no teacher reads the view {view!r}")
        return seen.views[view].about[LOGIT_SCALE]


def _distance(student: Tensor, teacher: Tensor, *, form: str) -> Tensor:
    """Mean over rows of KL(teacher, student) of logits (b, n), or of the cross-entropy."""
    wanted, found = teacher.log_softmax(dim=1), student.log_softmax(dim=1)
    told = wanted - found if form == "kl" else -found
    return (wanted.exp() * told).sum(dim=1).mean()

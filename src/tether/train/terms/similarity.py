"""What a frozen teacher thinks of every pair of a batch, as a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from tether.core.gather import Gather
from tether.core.ranges import Positive, checked
from tether.core.types import Loss
from tether.losses.checks import unit_rows
from tether.train.terms.term import Term, TermInputs


class TeacherSimilarity(Term):
    """KL divergence from a teacher's softmax over a batch's similarities to the student's, mean of both directions.

    The affinity distillation of TinyCLIP (arXiv 2309.12314, section 3.1).
    """

    @checked
    def __init__(
        self,
        *,
        image: str = "image",
        text: str = "text",
        teacher_image: str = "teacher_image",
        teacher_text: str = "teacher_text",
        temperature: Positive = 0.02,
    ) -> None:
        """Take the views.

        Args:
            image: the student's view of the images.
            text: the student's view of the texts.
            teacher_image: the teacher's.
            teacher_text: the teacher's.
            temperature: the teacher's cosines are divided by it; the student's have its logit scale.
        """
        self._views = {"image": image, "text": text, "teacher_image": teacher_image, "teacher_text": teacher_text}
        self.temperature = temperature

    @property
    def views(self) -> Mapping[str, str]:
        """See Term."""
        return self._views

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term."""
        image, text, *teacher = (unit_rows(seen.views[name].features) for name in self._views.values())
        losses = [
            _divergence(
                seen.logit_scale * queries @ gather(keys).T, teacher_queries @ gather(teacher_keys).T / self.temperature
            )
            for queries, keys, teacher_queries, teacher_keys in (
                (image, text, teacher[0], teacher[1]),
                (text, image, teacher[1], teacher[0]),
            )
        ]
        return (Loss((losses[0] + losses[1]) / 2),)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of KL(teacher, student) of logits (b, n)."""
    wanted = teacher.log_softmax(dim=1)
    return (wanted.exp() * (wanted - student.log_softmax(dim=1))).sum(dim=1).mean()

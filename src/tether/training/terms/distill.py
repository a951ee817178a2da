"""One tower's embeddings pulled to those of a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.types import Features, Loss
from tether.losses.checks import unit_rows
from tether.training.terms.term import Term, TermInputs


class TowerDistillation(Term):
    """Mean over the rows of one minus the cosine of the student's and the teacher's embedding, of either tower.

    The feature distillation of CLIP-KD (arXiv 2307.12732, section 3.2), whose mean squared difference of unit rows is
    2 / d of this. To hold the similarities of a batch instead of the embeddings themselves, take ``similarity``, for
    which the two may have any widths.
    """

    def __init__(self, *, student: str = "image", teacher: str = "teacher_image", head: str | None = None) -> None:
        """Take the views.

        Args:
            student: view that the model reads.
            teacher: view of the same rows that another encoder reads.
            head: a ``projection`` from the student's width to the teacher's, where these differ.
        """
        self.views, self._head = {"student": student, "teacher": teacher}, head
        self.heads = {} if head is None else {"head": head}

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: embeddings of other widths, or views of other numbers of rows.
        """
        student, teacher = (seen.views[name].features for name in self.views.values())
        if self._head is not None:
            project: nn.Module = seen.heads[self._head]
            student = Features(project(student.pooled))
        (rows, mine), (others, theirs) = student.pooled.shape, teacher.pooled.shape
        if rows != others:
            raise InputError(
                f"distill: expected as many rows of the teacher as of the student, got {others} and {rows}"
            )
        if mine != theirs:
            raise InputError(
                f"distill: the teacher's embeddings have {theirs} numbers, the student's {mine}: give the step "
                f"heads: {{project: {{name: projection, layers: 1, out: {theirs}}}}} and the term head: project, or "
                "take the term similarity, which compares embeddings of any widths"
            )
        return (Loss(1 - (unit_rows(student) * unit_rows(teacher)).sum(dim=1).mean()),)

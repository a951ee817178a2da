"""What each kind of part promises; the contract suites in tests/contracts check every member."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor, nn

from tether.core.finding import Finding
from tether.core.gather import Gather
from tether.core.runtime_protocol import ByAttributes
from tether.core.types import Batch, Block, ClipReport, Encoded, Features, ImageSpec, Loss, Row

if TYPE_CHECKING:
    import pyarrow as pa

NamedParams = Iterable[tuple[str, nn.Parameter]]
Seen_contra = TypeVar("Seen_contra", contravariant=True)


@runtime_checkable
class Tokenizer(Protocol, metaclass=ByAttributes):
    """Text to token ids."""

    context_length: int
    vocab_size: int

    def __call__(self, texts: Sequence[str], *, long_text: Literal["raise", "cut"] = "cut") -> Tensor:
        """(b, l) int64 ids, zero after the end token, trimmed to the longest text.

        Texts past the context are cut and counted, or with ``long_text="raise"`` an InputError.
        """
        ...


@runtime_checkable
class DualEncoder(Protocol, metaclass=ByAttributes):
    """An image tower and a text tower into one space; every model of ``tether.load`` is one, and a Module."""

    dim: int
    image_spec: ImageSpec
    tokenizer: Tokenizer

    @property
    def logit_scale(self) -> Tensor:
        """0-d multiplier of cosines, already exponentiated, with gradient."""
        ...

    @property
    def logit_bias(self) -> Tensor | None:
        """0-d offset of the logits, or None."""
        ...

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """(b, 3, h, w) uint8 pixels or normalised floats; ``mask`` (b, patches), True = may be attended to."""
        ...

    def encode_text(self, text: Tensor, *, mask: Tensor | None = None) -> Features:
        """(b, l) int64 token ids as the tokenizer gives them."""
        ...


@runtime_checkable
class Objective(Protocol, metaclass=ByAttributes):
    """Outputs in, scalar out; it never sees a model."""

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's rows; with ``gather`` the mean over processes is the loss of the whole batch."""
        ...


@runtime_checkable
class Scheduled(Protocol, metaclass=ByAttributes):
    """An objective that changes over a run."""

    def at(self, share: float) -> Objective:
        """The objective when ``share`` of the run's steps are over, 0 at the first and 1 at the last."""
        ...


@runtime_checkable
class Drawing(Protocol, metaclass=ByAttributes):
    """An objective that needs chance."""

    def drawn(self, draw: int) -> Objective:
        """The objective of one step; ``draw`` are 64 random bits, the same on all processes."""
        ...


@runtime_checkable
class Step(Protocol, metaclass=ByAttributes):
    """One forward of a method that needs more than an objective: a second forward, a teacher, an attack."""

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss to differentiate."""
        ...


@runtime_checkable
class Owning(Protocol, metaclass=ByAttributes):
    """A ``Step`` with modules of its own, which are trained and saved with the run and are no part of the model."""

    def new_heads(self, model: DualEncoder) -> Mapping[str, nn.Module]:
        """The modules by name, their weights drawn from the step's seed."""
        ...


@runtime_checkable
class Finishing(Protocol, metaclass=ByAttributes):
    """An ``Owning`` step some of whose modules may become part of the model that is measured and saved."""

    def finished(self, model: DualEncoder, heads: Mapping[str, Tensor]) -> DualEncoder:
        """The model as it is saved: itself, or another one made of it and of the modules' tensors."""
        ...


@runtime_checkable
class Taught(Protocol, metaclass=ByAttributes):
    """A ``Step`` that may have a teacher, which is saved with the run's checkpoints and is no part of the model."""

    def see_start(self, model: DualEncoder) -> None:
        """Look at the model as it is before the run, on the CPU; a run that goes on shows it again."""
        ...

    def follow_(self, *, step: int) -> None:
        """Called once after each optimiser step, in every process, also where it was skipped."""
        ...

    def teacher_tensors(self) -> dict[str, Tensor]:
        """What must be saved of a teacher that changes."""
        ...

    def load_teacher_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``teacher_tensors`` gave."""
        ...


@runtime_checkable
class Stateful(Protocol, metaclass=ByAttributes):
    """A part that learns something of its own during a run; a ``Step`` that is one is saved with the checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that let ``load_state_dict`` continue bit for bit."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another instance of the same settings."""
        ...


@runtime_checkable
class GradClipper(Protocol, metaclass=ByAttributes):
    """Bounds gradients in place, after accumulation and unscaling, before the optimiser's step."""

    def clip_(self, named_params: NamedParams, *, step: int) -> ClipReport:
        """Clip the ``.grad`` of every parameter given; a non-finite norm zeroes them, is not recorded, asks to skip."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that let ``load_state_dict`` continue bit for bit."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another instance of the same settings."""
        ...


@runtime_checkable
class Source(Protocol, metaclass=ByAttributes):
    """Where rows come from."""

    name: str
    version: str

    def blocks(self) -> Sequence[Block]:
        """The pieces, in a fixed order."""
        ...

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one piece from row ``start`` on, always in the same order."""
        ...


@runtime_checkable
class Curator(Protocol, metaclass=ByAttributes):
    """Decides which rows of a pool are kept; statistics add across shards, in any order."""

    def partial_fit(self, rows: pa.RecordBatch) -> Curator:
        """Count one batch of rows."""
        ...

    def merge(self, other: Curator) -> Curator:
        """Add the counts of another shard."""
        ...

    def keep(self, rows: pa.RecordBatch) -> np.ndarray:
        """(n,) float64 probability to keep each row; the draw itself is ``core.hash_rng.hash_uniform`` of its key."""
        ...


@runtime_checkable
class ModelEdit(Protocol, metaclass=ByAttributes):
    """Changes a model in place: adapters, surgery, pruning, quantisation."""

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Edit the model; at step 0 its outputs are unchanged unless the method says otherwise."""
        ...

    def merge_(self, model: nn.Module) -> nn.Module:
        """Fold the edit into plain weights; outputs are unchanged."""
        ...


@runtime_checkable
class TaskHead(Protocol, metaclass=ByAttributes):
    """Turns an encoder and words into an answer about one image."""

    def prepare(
        self, model: DualEncoder, prompts: Sequence[str], *, support: Iterable[Batch] | None = None
    ) -> TaskHead:
        """Encode the prompts (and the few support images) once."""
        ...

    def predict(self, image: Tensor) -> Any:
        """Scores, Masks, AnomalyMap, Texts or Ranking for (b, 3, h, w) images."""
        ...


@runtime_checkable
class Probe(Protocol[Seen_contra], metaclass=ByAttributes):
    """One section of a health report: looks at a model on its pairs and says one thing; its settings say how."""

    title: str

    def __call__(self, subject: Seen_contra) -> Finding:
        """What was found; an InputError says why it cannot be told here, and the other sections go on."""
        ...

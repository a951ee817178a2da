"""The best model of a run's evaluations, kept beside its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tether.core.component import closest
from tether.core.errors import InputError
from tether.models.convert.saved_files import describe_weights
from tether.models.load import fill
from tether.training.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from tether.training.run_files import BEST
from tether.training.steps.module import Encoder


class BestModel:
    """Weights and figures of the best evaluation so far."""

    def __init__(self, folder: Path, *, name: str, steps: int) -> None:
        """Args: folder: of the run; name: the measure that decides; steps: of the run."""
        self._folder, self._name, self._steps = folder / BEST, name, steps

    def keep(
        self, encoder: Encoder, *, done: int, metrics: Mapping[str, float], finished: Callable[[], Encoder]
    ) -> None:
        """Save the model if it is the best that was measured so far.

        Args:
            encoder: as it was measured.
            done: steps.
            metrics: what was measured.
            finished: gives it as it would be in the end.
        """
        if not metrics:
            return
        if self._name not in metrics:
            raise InputError(f"evaluate.best: {closest(self._name, metrics)}, got {self._name!r}")
        saved = self._saved(encoder)
        if saved is not None and saved.state["metrics"][self._name] >= metrics[self._name]:
            return
        encoder = finished()
        tensors = {key: tensor.detach().cpu() for key, tensor in encoder.state_dict().items()}
        best = Checkpoint(done, {"model": tensors}, {"metrics": dict(metrics)}, describe_weights(encoder))
        save_checkpoint(self._folder, best, keep=1)

    def take(self, encoder: Encoder, *, metrics: Mapping[str, float]) -> dict[str, float]:
        """Give the model the weights of the best evaluation, if that was an earlier one; gives its figures."""
        best = self._saved(encoder)
        if best is None or best.state["metrics"][self._name] <= metrics[self._name]:
            return dict(metrics)
        fill(encoder, best.tensors["model"], where=best.where)
        return {**best.state["metrics"], "best_step": float(best.step)}

    def _saved(self, encoder: Encoder) -> Checkpoint | None:
        """The best model so far; one that was measured at other sizes than the encoder's now does not count."""
        without = "go on without the best model so far"
        best = newest_checkpoint(self._folder, steps=self._steps, without=without)
        if best is None:
            return None
        own = encoder.state_dict()
        fits = all(own[name].shape == tensor.shape for name, tensor in best.tensors["model"].items() if name in own)
        return best if fits else None

"""A trained character model of eight layers, kept in the cache: what rounding, repair and pruning are tried on."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tether.models.convert.saved_files import write_weights
from tether.models.convert.weights import read_weights
from tether.models.towers.blocks.options import BlockConfig
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.worlds import char_lm

LAYERS, STEPS = 8, 400
_FILE = "weights.safetensors"


def fresh(seed: int) -> char_lm.CharModel:
    """The model at its start: pre-norm blocks with RMSNorm."""
    return char_lm.CharModel(char_lm.alphabet_size(), layers=LAYERS, blocks=BlockConfig(norm="rms"), seed=seed)


def trained(lab: Lab) -> char_lm.CharModel:
    """The model after 400 steps, in evaluation; trained once for each seed."""
    steps = lab.steps(STEPS, 2)

    def make(folder: Path) -> None:
        model = fresh(lab.seed)
        batch, batches = lab.steps(char_lm.BATCH, 4), lab.steps(char_lm.VALIDATION_BATCHES, 1)
        char_lm.train(model, seed=lab.seed, steps=steps, batch=batch, validation=batches)
        folder.mkdir(parents=True)
        write_weights(folder / _FILE, model.state_dict(), metadata={})

    folder = cached_model("deep-char-lm", made_by=Path(__file__), facts=[lab.seed, steps], make=make)
    model = fresh(lab.seed)
    model.load_state_dict(read_weights(folder / _FILE))
    return model.eval()


def nats(lab: Lab, model: char_lm.CharModel) -> float:
    """Cross-entropy on the last tenth of the text, on the same batches for every model of a seed."""
    batches = lab.steps(char_lm.VALIDATION_BATCHES, 1)
    return char_lm.validation_loss(model, seed=lab.seed + 1, batches=batches, batch=lab.steps(char_lm.BATCH, 4))


def learning_text(lab: Lab, *, rows: int) -> Tensor:
    """(rows, l) of the text that is learnt from."""
    ids, _ = char_lm.corpus()
    draw = lab.generator("learning text")
    return char_lm.draw_batch(ids[: len(ids) * 9 // 10], draw, batch=rows, context=char_lm.CONTEXT)[0]


def letters(lab: Lab, *, rows: int) -> Tensor:
    """(rows,) first characters of texts, drawn from those of the text that is learnt from."""
    return learning_text(lab, rows=rows)[:, 0]

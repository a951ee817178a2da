"""What the recipe ``quality`` has trained by, read from the folder of its head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import DualEncoder
from tether.core.state_file import SHOWN, read_state
from tether.models.convert.saved_files import HEAD_FILE, HEAD_FORMAT
from tether.models.features.image_digest import image_digest
from tether.models.texts.prompt_quality import checked_prompts


@dataclass(frozen=True, slots=True)
class KeptPrompts:
    """Prompts with their embeddings, for one image side.

    Attributes:
        prompts: good and bad in turn.
        text: (2p, d) their embeddings.
        scale: multiplier of cosines.
        encoder: digest of the image side.
        where: the file.
    """

    prompts: tuple[str, ...]
    text: Float[Tensor, "t d"]
    scale: float
    encoder: str
    where: str

    def check(self, model: DualEncoder) -> None:
        """Refuse a model with another image side."""
        if (found := image_digest(model)) != self.encoder:
            raise InputError(
                f"{self.where}: was trained with an image side of digest {self.encoder[:SHOWN]}, this model's has "
                f"{found[:SHOWN]}; take the model that tether adapt wrote beside it"
            )


def read_prompts(folder: str | Path) -> KeptPrompts:
    """Read the head of a folder that ``tether adapt --recipe quality`` wrote.

    Raises:
        InputError: no head there, a damaged one, or one of another recipe.
    """
    path = Path(folder) / HEAD_FILE
    if not path.is_file():
        raise InputError(f"{folder}: holds no {HEAD_FILE}; expected a folder of tether adapt --recipe quality")
    settings, arrays = read_state(path, what="head", format=HEAD_FORMAT)
    if settings.get("kind") != "quality":
        raise InputError(
            f"{path}: expected a head of tether adapt --recipe quality, got one of kind {quoted(settings.get('kind'))}"
        )
    try:
        text = torch.from_numpy(np.array(arrays["text"], np.float32))
        return KeptPrompts(
            checked_prompts(settings["prompts"]), text, float(settings["scale"]), str(settings["encoder"]), str(path)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the state of a head: {error}") from error

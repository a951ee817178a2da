"""An image tower learns from a teacher that looked at the regions and read the captions: DCLIP, arXiv 2505.21549."""

from __future__ import annotations

import torch
from torch import nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Share, checked
from tether.core.types import Batch, Loss
from tether.losses import caption_labels
from tether.methods.dclip import dclip_loss
from tether.methods.dclip.region_teacher import RegionTargets
from tether.training.steps.module import StepModule, ViewRows, encode_views, loss_inside
from tether.training.steps.views import captions_of


class DclipStep:
    """Images against the rows of a table, whose texts and logit scale rest; a ``core.protocols.Step`` for any loop.

    ``batch.extra`` has ``keys`` and ``texts``, which say whose rows they are, as ``data.loader.Loader`` gives them.
    Equal captions of a batch are positives of each other.

    Example:
        >>> import torch
        >>> from tether.methods.dclip import DclipStep, RegionTargets
        >>> from tether.core.gather import LOCAL
        >>> from tether.core.types import Batch
        >>> from tether.models import create
        >>> from tether.training.steps.module import StepModule
        >>> model, rows = create("tiny"), torch.randn(1, 64)
        >>> step = DclipStep(RegionTargets({("7", "a star"): 0}, text=rows, image=rows))
        >>> image, whose = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), {"keys": ["7"], "texts": ["a star"]}
        >>> batch = Batch(image, model.tokenizer(["a star"]), whose)
        >>> list(step(StepModule(model), batch, step=0, gather=LOCAL).terms)
        ['contrastive', 'cosine']
    """

    @checked
    def __init__(self, targets: RegionTargets, *, alpha: Share = 0.5) -> None:
        """Take the settings.

        Args:
            targets: on the model's device.
            alpha: see ``dclip_loss``.
        """
        self.targets, self.alpha = targets, alpha

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss of a batch; ``model`` is a (wrapped) StepModule, and terms are the two parts before their weights.

        Raises:
            InputError: an image that the teacher was not asked for with this caption.
        """
        return loss_inside(model, self._loss, batch, gather=gather)

    def _loss(self, module: StepModule, batch: Batch, *, gather: Gather) -> Loss:
        model, keys = module.model, batch.extra.get("keys")
        if not isinstance(keys, list):
            raise InputError(f"batch.extra['keys']: expected a list of the images' keys, got {type(keys).__name__}")
        pairs = list(zip(map(str, keys), captions_of(batch), strict=True))
        for key, text in pairs:
            if (key, text) not in self.targets.place:
                raise InputError(f"{key}: the teacher was not asked for this image with the text {text!r:.100}")
        rows = torch.tensor([self.targets.place[pair] for pair in pairs], device=batch.image.device)
        found = dclip_loss(
            encode_views(module, {"image": ViewRows("image", batch.image)})[0]["image"].pooled,
            self.targets.text[rows],
            self.targets.image[rows],
            model.logit_scale.detach(),
            alpha=self.alpha,
            labels=caption_labels(batch.text),
            gather=gather,
        )
        return Loss(found.total, {"contrastive": found.contrastive.detach(), "cosine": found.cosine.detach()})

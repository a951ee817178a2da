"""On drawn scenes with masks, an adapter that learns how patches relate from which phrases are true of each image."""

from __future__ import annotations

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.tuning import play
from tether.methods.excel_wsss.head import RelationHead
from tether.methods.excel_wsss.recipe import RelationRecipe
from tether.models.towers.frozen_copy import frozen_copy
from tether_lab.lab.lab import Lab
from tether_lab.worlds.masked_scenes import MaskedScenes

STEPS, BATCH, DIM, RATE = 300, 4, 64, 1e-3


def learnt_relation(lab: Lab, bed: MaskedScenes) -> RelationHead:
    """What ``tether adapt --recipe relation`` learns from the phrases of the unlabelled scenes, not from their masks.

    Args:
        lab: seed and budget.
        bed: of the seed.
    """
    recipe = RelationRecipe(steps=lab.steps(STEPS), batch_size=BATCH, dim=DIM, hidden=DIM, learning_rate=RATE)
    given = Given("images", bed.unlabelled, len(bed.unlabelled), seed=lab.seed)
    model = frozen_copy(bed.model)
    outcome = play(recipe.tuning(model, given), model, seed=lab.seed).outcome
    assert outcome is not None
    assert isinstance(outcome.head, RelationHead)
    return outcome.head

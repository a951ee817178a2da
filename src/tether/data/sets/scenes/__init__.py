"""A synthetic world with ground truth: scenes, images, captions, near misses, edits, lettering, defects, biases."""

from tether.data.sets.scenes.biases import PARTNERS, Biased, draw_biased
from tether.data.sets.scenes.captions import HELD_OUT_TEMPLATES, TEMPLATES, details_of, long, relation, short
from tether.data.sets.scenes.defects import draw_defect
from tether.data.sets.scenes.edits import EDITS, Edit, draw_edit
from tether.data.sets.scenes.lettering import draw_lettering
from tether.data.sets.scenes.negatives import Negative, replace_thing, swap_attribute, swap_relation
from tether.data.sets.scenes.relief import Relief, relief
from tether.data.sets.scenes.render import RenderedScene, render
from tether.data.sets.scenes.set import Sample, ScenesSet
from tether.data.sets.scenes.twins import Quadruple, SceneTwins
from tether.data.sets.scenes.world import HELD_OUT_PAIRS, Defect, Dice, Scene, TextOverlay, Thing, World

__all__ = [
    "EDITS",
    "HELD_OUT_PAIRS",
    "HELD_OUT_TEMPLATES",
    "PARTNERS",
    "TEMPLATES",
    "Biased",
    "Defect",
    "Dice",
    "Edit",
    "Negative",
    "Quadruple",
    "Relief",
    "RenderedScene",
    "Sample",
    "Scene",
    "SceneTwins",
    "ScenesSet",
    "TextOverlay",
    "Thing",
    "World",
    "details_of",
    "draw_biased",
    "draw_defect",
    "draw_edit",
    "draw_lettering",
    "long",
    "relation",
    "relief",
    "render",
    "replace_thing",
    "short",
    "swap_attribute",
    "swap_relation",
]

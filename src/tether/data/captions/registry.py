"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.data.captions.rewriter import Rewriter
    from tether.data.captions.sampling import CaptionPick

CAPTION_PICKS: Registry[CaptionPick] = Registry(
    "caption_picks",
    {
        "first": "tether.data.captions.sampling:FirstCaption",
        "first_often": "tether.data.captions.sampling:FirstOften",
        "random": "tether.data.captions.sampling:RandomCaption",
        "rewritten": "tether.data.captions.sampling:Rewritten",
        "mixed": "tether.data.captions.sampling:MixedCaption",
        "augmented": "tether.data.captions.augment:Augmented",
        "carefully_augmented": "tether.data.captions.laterality:CarefullyAugmented",
        "sentences": "tether.data.captions.sampling:SomeSentences",
    },
)
"""Every way to choose the caption that a batch uses."""

REWRITERS: Registry[Rewriter] = Registry(
    "rewriters",
    {
        "template": "tether.data.captions.rewriter:TemplateRewriter",
        "augment": "tether.data.captions.augment:TextAugment",
        "language_model": "tether.data.captions.language_model:LMRewriter",
    },
)
"""Every way to say a caption in other words."""

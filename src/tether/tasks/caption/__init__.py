"""Captions: a language model that is told an image, learnt from texts alone or from pairs."""

from tether.losses.self_critical import until_end
from tether.tasks.caption.captioner import DrawnCaptions, PrefixCaptioner
from tether.tasks.caption.cider_reward import CiderReward
from tether.tasks.caption.clip_s import clip_s, ref_clip_s
from tether.tasks.caption.memory import ImageRows, mix, noisy_copies, read_images, region_features
from tether.tasks.caption.nearest import NearestCaptions
from tether.tasks.caption.prefix import PrefixAdaptor
from tether.tasks.caption.recipe import CAPTION_RECIPES, CaptionFromTexts
from tether.tasks.caption.reward import ClipReward, Rewards, self_critical_rewards
from tether.tasks.caption.reward_grammar import GrammarHead, fit_grammar
from tether.tasks.caption.reward_recipe import CaptionByReward
from tether.tasks.caption.reward_training import SelfCriticalTrainer
from tether.tasks.caption.text_only import Captioned, TextOnlyCaptioner, Writing
from tether.tasks.caption.training import fit_pairs

__all__ = [
    "CAPTION_RECIPES",
    "CaptionByReward",
    "CaptionFromTexts",
    "Captioned",
    "CiderReward",
    "ClipReward",
    "DrawnCaptions",
    "GrammarHead",
    "ImageRows",
    "NearestCaptions",
    "PrefixAdaptor",
    "PrefixCaptioner",
    "Rewards",
    "SelfCriticalTrainer",
    "TextOnlyCaptioner",
    "Writing",
    "clip_s",
    "fit_grammar",
    "fit_pairs",
    "mix",
    "noisy_copies",
    "read_images",
    "ref_clip_s",
    "region_features",
    "self_critical_rewards",
    "until_end",
]

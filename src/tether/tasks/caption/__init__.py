"""Captions: a language model that is told an image, learnt from texts alone or from pairs."""

from tether.tasks.caption.captioner import Drawn, PrefixCaptioner, until_end
from tether.tasks.caption.prefix import PrefixAdaptor
from tether.tasks.caption.training import fit_pairs

__all__ = ["Drawn", "PrefixAdaptor", "PrefixCaptioner", "fit_pairs", "until_end"]

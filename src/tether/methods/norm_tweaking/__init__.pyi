from .norm_repair import NormTweak as NormTweak
from .norm_repair import own_texts as own_texts
from .norm_tweak import NormTweaker as NormTweaker
from .norm_tweak import TweakedLayer as TweakedLayer
from .norm_tweak import distribution_loss as distribution_loss

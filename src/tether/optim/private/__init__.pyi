from .counted_clip import CountedClip as CountedClip
from .counted_clip import attach_to_opacus as attach_to_opacus
from .counted_clip import clip_factors as clip_factors
from .counted_clip import noisy_clipped_share as noisy_clipped_share
from .moo import MooClipSchedule as MooClipSchedule
from .moo import gradient_noise as gradient_noise

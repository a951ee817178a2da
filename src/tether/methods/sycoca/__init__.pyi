from .caption_term import CaptionTerm as CaptionTerm
from .cross_decoder import TextGuidedDecoder as TextGuidedDecoder
from .cross_decoder import decoder_layers as decoder_layers
from .decoder import CausalDecoder as CausalDecoder
from .rebuild_term import RebuildTerm as RebuildTerm
from .step_noise import step_noise as step_noise
from .untold_tokens import UntoldTokens as UntoldTokens

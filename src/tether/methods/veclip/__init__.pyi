from .fuse import TemplateFuser as TemplateFuser
from .fuse import fuse_captions as fuse_captions
from .fuse import without_phrases as without_phrases

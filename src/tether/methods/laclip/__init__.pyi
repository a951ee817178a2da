from .dataset import one_line as one_line
from .dataset import read_rewrites as read_rewrites
from .dataset import rewrite_dataset as rewrite_dataset
from .rewrite_captions import RewriteCaptions as RewriteCaptions

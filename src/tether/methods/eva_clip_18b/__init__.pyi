from .eva import LoadReport as LoadReport
from .eva import load_tower_ as load_tower_
from .eva import unwrapped as unwrapped
from .eva_clip import load_clip_ as load_clip_

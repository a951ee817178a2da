from .few_bits import Octav as Octav
from .few_bits import RoundedRows as RoundedRows
from .levels import FakeQuant as FakeQuant
from .levels import round_to_levels as round_to_levels
from .octav import octav_clip as octav_clip
from .registry import QUANTISERS as QUANTISERS

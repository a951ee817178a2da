from .clipper import AutoClip as AutoClip
from .running_percentile import FullHistory as FullHistory
from .running_percentile import History as History
from .running_percentile import Window as Window

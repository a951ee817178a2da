from .ratings import RatedLabels as RatedLabels
from .ratings import Split as Split
from .ratings import rated_splits as rated_splits
from .ratings import ratings_to_labels as ratings_to_labels

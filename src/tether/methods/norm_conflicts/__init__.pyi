from .clauses import CLAUSE_FEATURES as CLAUSE_FEATURES
from .clauses import clause_features as clause_features
from .conflicts import CentroidConflict as CentroidConflict
from .conflicts import ConflictClassifier as ConflictClassifier
from .conflicts import PairFeatures as PairFeatures

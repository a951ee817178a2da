from .evaluation import IncrementRates as IncrementRates
from .evaluation import SpecsIncrements as SpecsIncrements
from .evaluation import SpecsScore as SpecsScore
from .evaluation import increment_rates as increment_rates
from .evaluation import specs_score as specs_score
from .loss import SpecsLoss as SpecsLoss
from .loss import SpecsTerms as SpecsTerms
from .term import DetailHinges as DetailHinges

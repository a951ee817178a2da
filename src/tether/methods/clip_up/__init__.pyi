from .start import Upcycled as Upcycled
from .term import ExpertBalance as ExpertBalance
from .upcycle import ExpertCosts as ExpertCosts
from .upcycle import expert_costs as expert_costs
from .upcycle import upcycle as upcycle

from .recipe import CloseTheGap as CloseTheGap
from .refine import Refined as Refined
from .refine import RefineStep as RefineStep
from .refine import refine_ as refine_
from .step import ClipRefineLoss as ClipRefineLoss

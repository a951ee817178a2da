from .composed import ComposedStep as ComposedStep
from .module import StepModule as StepModule
from .module import ViewRows as ViewRows
from .module import loss_inside as loss_inside
from .presets import ContrastiveStep as ContrastiveStep
from .presets import DistillStep as DistillStep
from .presets import HardNegativeStep as HardNegativeStep
from .registry import STEPS as STEPS

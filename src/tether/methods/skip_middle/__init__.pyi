from .gate_controller import GateController as GateController
from .step import SkipMiddleStep as SkipMiddleStep
from .term import GatePenalty as GatePenalty

from .distill import LocalGlobalStep as LocalGlobalStep
from .recipe import LocalGlobal as LocalGlobal

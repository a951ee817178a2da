from .registry import DEBIASERS as DEBIASERS

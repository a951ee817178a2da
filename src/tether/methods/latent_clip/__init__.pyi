from .noise import NoiseResult as NoiseResult
from .noise import NoiseStep as NoiseStep
from .noise import NormRegularizer as NormRegularizer
from .noise import Reward as Reward
from .noise import optimize_noise as optimize_noise
from .prompt_reward import PromptReward as PromptReward
from .start import OnLatents as OnLatents

from .prompt_classifier import INIT_TEXTS as INIT_TEXTS
from .prompt_classifier import PromptClassifier as PromptClassifier
from .prompt_tuning import PromptReport as PromptReport
from .prompt_tuning import prompt_loss as prompt_loss
from .registry import CLASSIFIERS as CLASSIFIERS

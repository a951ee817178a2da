from .attack import fine_tune_attack as fine_tune_attack
from .attack import random_change as random_change

from .typos import LeafLoss as LeafLoss
from .typos import LeafStep as LeafStep
from .typos import LeafTrainer as LeafTrainer
from .typos import text_fare_loss as text_fare_loss

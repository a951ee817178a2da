from .registry import CLASSIFIER_HEADS as CLASSIFIER_HEADS
from .registry import VIEW_HEADS as VIEW_HEADS
from .views import ViewHead as ViewHead
from .zero_shot import ZeroShotClassifier as ZeroShotClassifier

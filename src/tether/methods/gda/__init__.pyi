from .head import GDAClassifier as GDAClassifier
from .head import shrunk_precision as shrunk_precision
from .recipe import GdaRecipe as GdaRecipe

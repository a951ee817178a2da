from .nested_search import Nearest as Nearest
from .nested_search import nested_search as nested_search

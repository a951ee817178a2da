from .choices import CaptionChoice as CaptionChoice
from .choices import ChoiceSet as ChoiceSet
from .find import SuiteSet as SuiteSet
from .find import find_sets as find_sets
from .shards import ShardSet as ShardSet

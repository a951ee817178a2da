from .controller import FilterController as FilterController
from .descent import accuracy as accuracy
from .descent import read_batch as read_batch
from .obfuscator import Obfuscation as Obfuscation
from .obfuscator import Obfuscator as Obfuscator
from .secret import Secret as Secret
from .weights import layer_weights as layer_weights
from .weights import near_masks as near_masks

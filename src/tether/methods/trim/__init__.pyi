from .trim import Trimmed as Trimmed
from .trim import trim_tokens as trim_tokens

from .measures import evaluate as evaluate
from .metric import RetrievalRecall as RetrievalRecall
from .retrieval import recall_at_k as recall_at_k

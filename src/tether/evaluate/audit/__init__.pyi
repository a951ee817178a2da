from .captions import caption_fit as caption_fit
from .confident import confident_joint as confident_joint
from .confident import doubt as doubt
from .confident import likely_wrong as likely_wrong
from .confident import pooled as pooled
from .judges import Neighbours as Neighbours
from .judges import neighbours as neighbours
from .judges import out_of_fold as out_of_fold

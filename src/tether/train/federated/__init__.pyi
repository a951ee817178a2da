from .checks import check_loss as check_loss
from .checks import check_private_module as check_private_module
from .client import PrivateClient as PrivateClient
from .client import Update as Update
from .rounds import Federated as Federated
from .rounds import RoundRecord as RoundRecord
from .rounds import federate as federate

from .clipping_bias import ClipBiasMeter as ClipBiasMeter
from .clipping_bias import ClipBiasReport as ClipBiasReport
from .clipping_bias import clip_bias as clip_bias
from .clipping_bias import clipped_sgd as clipped_sgd
from .clipping_bias import clipped_sgd_floor as clipped_sgd_floor
from .clipping_bias import sample_gradients as sample_gradients
from .clipping_bias import two_point_floor as two_point_floor
from .clipping_bias import two_point_stationary_point as two_point_stationary_point

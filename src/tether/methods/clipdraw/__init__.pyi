from .blobs import BlobCanvas3D as BlobCanvas3D
from .blobs import camera_at as camera_at
from .blobs import look_from as look_from

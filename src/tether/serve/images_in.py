"""Images of requests: data URIs, files of a form, and URLs where they are allowed."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from torch import Tensor

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data.images import decode, resize_and_crop
from tether.data.remote import fetch
from tether.serve.limits import ServerLimits
from tether.serve.refused import RefusedError

Given = str | bytes
"""A data URI or URL, or the bytes of a file."""
_DECODERS = 2  # images that are decoded at a time: each may hold what its pixels cost
_FETCHERS = 8
_MOST_FETCHES = 256
_SECONDS = 15.0


class ImagesIn:
    """Reads images of requests, a few at a time.

    Args of the constructor say whether URLs are fetched; then private, loopback, link-local and multicast addresses are
    refused, the address that was checked is the one connected to, and redirects are checked as well.
    """

    def __init__(self, limits: ServerLimits, *, allow_urls: bool = False, get: Callable[..., bytes] = fetch) -> None:
        """Start the threads.

        Args:
            limits: of pixels and bytes.
            allow_urls: whether images may be named by URL.
            get: fetches a URL, as ``data.remote.fetch``.
        """
        self.limits, self.allow_urls, self._get = limits, allow_urls, get
        self._decoders = ThreadPoolExecutor(_DECODERS, "tether decode")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "tether fetch")
        self._fetching = 0

    async def fitted(self, images: Sequence[tuple[str, Given]], spec: ImageSpec) -> list[Tensor]:
        """Images at a model's size.

        Args:
            images: where each stands in the request, and the image.
            spec: how the model wants them.

        Raises:
            RefusedError: not an image, too large, or a URL that is not fetched; it names the place.
        """
        return await self._read(images, lambda pixels: resize_and_crop(pixels, spec), self.limits.pixels)

    async def whole(self, images: Sequence[tuple[str, Given]], *, pixels: int) -> list[Tensor]:
        """Images in their own size, of at most so many pixels; see ``fitted``."""
        return await self._read(images, lambda found: found, pixels)

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    async def _read(
        self, images: Sequence[tuple[str, Given]], then: Callable[[Tensor], Tensor], pixels: int
    ) -> list[Tensor]:
        if len(images) > self.limits.images:
            raise RefusedError(413, f"{len(images):,} images; at most {self.limits.images} are read in one request")
        loop = asyncio.get_running_loop()
        found = list[Tensor]()
        try:
            async with asyncio.timeout(self.limits.seconds):
                for where, given in images:
                    if isinstance(given, str) and not given.startswith("data:"):
                        given = await self._fetched(given, where)
                    call = partial(_decoded, given, where, then, pixels)
                    found.append(await loop.run_in_executor(self._decoders, call))
        except TimeoutError:
            raise RefusedError(408, f"the images took more than {self.limits.seconds:g} s") from None
        return found

    async def _fetched(self, url: str, where: str) -> bytes:
        if not url.startswith(("http://", "https://")):
            raise RefusedError(400, f"{where}: expected a data URI such as data:image/jpeg;base64,...", param=where)
        if not self.allow_urls:
            raise RefusedError(
                400, f"{where}: this server fetches no URLs (--allow-urls); send the image as a data URI", param=where
            )
        if self._fetching >= _MOST_FETCHES:
            raise RefusedError(429, "too many images are being fetched; try again", retry_after=1)
        call = partial(self._get, url[:4096], limit=self.limits.request_bytes, seconds=_SECONDS)
        self._fetching += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._fetchers, call)
        except InputError as error:
            raise RefusedError(400, f"{where}: {error}", param=where) from None
        finally:
            self._fetching -= 1


def _decoded(given: Given, where: str, then: Callable[[Tensor], Tensor], pixels: int) -> Tensor:
    try:
        data = _from_uri(given) if isinstance(given, str) else given
        return then(decode(data, name=where, max_pixels=pixels))
    except (InputError, ImportError) as error:
        said = str(error)
        if "pixels" in said and ("refused" in said or "bomb" in said):
            raise RefusedError(413, said, param=where) from None
        raise RefusedError(400, said if said.startswith(where) else f"{where}: {said}", param=where) from None


def _from_uri(uri: str) -> bytes:
    head, comma, data = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError("expected a data URI such as data:image/jpeg;base64,...")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the data URI is not base64") from None

"""Decoding the images in a response to PIL images. Imported only for `pool_image`."""

import io

from PIL import Image, UnidentifiedImageError

from poolservice_client.errors import ServerError


def decode(data: bytes | bytearray | memoryview) -> Image.Image:
    """Return the image in a result.

    Raises:
        ServerError: `data` is not a valid PNG file.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ServerError(f"the server sent an image that cannot be read: {error}") from None
    return image

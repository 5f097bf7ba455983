"""The International Standard Content Code of an image (ISO 24138:2024), by which registries know works.

ISCC-CODE of an Image-Code (the visible content), a Data-Code (similar bytes) and an Instance-Code (the
bytes), each of 64 bits, by iscc-lib. The picture is normalised as the ISCC's own software does: upright,
border of one colour cut off, grey, 32 by 32; from the picture in its stored size, for which a large original
was decoded.
"""

from typing import Final

import numpy as np
from PIL import Image, ImageChops

from pipeline.images.decode import Pixels

_SIDE: Final = 32
_BITS: Final = 64


def code(rgb: Pixels, data: bytes) -> str:
    """Return "ISCC:..." of a picture, uint8 [height, width, 3], and the bytes that it was served as."""
    import iscc_lib

    units = [
        iscc_lib.gen_image_code_v0(normalised(rgb), _BITS)["iscc"],
        iscc_lib.gen_data_code_v0(data, _BITS)["iscc"],
        iscc_lib.gen_instance_code_v0(data, _BITS)["iscc"],
    ]
    return str(iscc_lib.gen_iscc_code_v0(units)["iscc"])


def normalised(rgb: Pixels) -> bytes:
    """Return the 1,024 grey levels of which the Image-Code is made."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    corner = Image.new("RGB", image.size, image.getpixel((0, 0)))
    difference = ImageChops.difference(image, corner)
    box = ImageChops.add(difference, difference).getbbox()
    inner = image.crop(box) if box else image
    return inner.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).tobytes()

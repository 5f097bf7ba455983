"""Anybody's pictures in training and evaluation: in bounds, with a reason, the same wherever decoded."""

import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images import exif, pixels
from pipeline.images.child import Child
from pipeline.images.decode import BadImage
from pipeline.images.pixels import PixelDecoder, Wanted, centre, quick
from tests import profiles, test_images
from tests.test_images import encoded, jpeg_with_scans, png_header
from tests.test_pictures import FORMS, WIDE
from train import image_transforms

photo = functools.cache(test_images.photo)

BAD = {
    "empty": (b"", "empty_body"),
    "text": (b"<svg/>", "not_image"),
    "bomb": (png_header(65_000, 65_000), "too_many_pixels"),
    "column": (png_header(1, 60_000_000, 1, 0), "bad_aspect"),
    "scans": (jpeg_with_scans(150), "too_many_scans"),
    "cut": (encoded(photo(), "JPEG")[:9000], "truncated"),
    "cut png": (encoded(photo(), "PNG")[:9000], "truncated"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_have_the_reasons_of_the_crawl(name: str) -> None:
    data, reason = BAD[name]
    for decode in (image_transforms.decode, lambda data: image_transforms.evaluation_image(data, 32)):
        with pytest.raises(BadImage) as caught:
            decode(data)
        assert caught.value.reason == reason


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_decoded(form: str) -> None:
    data, expected = FORMS[form]()
    wanted = np.asarray(expected.convert("RGB")).astype(int)
    assert np.abs(image_transforms.decode(data).astype(int) - wanted).mean() < 4
    assert image_transforms.evaluation_image(data, 32).shape == (32, 32, 3)
    assert image_transforms.size_of(data) == expected.size


def test_both_ways_of_decoding_give_the_same_pixels() -> None:
    """A profile that changes nothing is learnt from the child, then decoded at once: nobody can tell."""
    plain = encoded(photo(), "JPEG", icc_profile=profiles.rgb(profiles.SRGB, profiles.srgb_curve()))
    pixels._PLAIN.clear()
    child = PixelDecoder(Wanted(form="whole", side=100))
    assert quick(plain, 100) is None
    first = child.decode(plain)
    second = quick(plain, 100)
    child.close()
    assert second is not None and (first == second).all() and first.flags.writeable


def test_profiles_and_orientation_are_applied() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    data = encoded(photo(400, 300), "JPEG", exif=tags, icc_profile=WIDE["swapped"], quality=95)
    bare = image_transforms.decode(encoded(photo(400, 300), "JPEG", quality=95))
    assert image_transforms.decode(data).shape == (400, 300, 3)
    red, _, blue = image_transforms.decode(data).transpose(2, 0, 1).astype(int)
    turned = np.rot90(bare, -1).astype(int)
    assert np.abs(red - turned[..., 2]).mean() + np.abs(blue - turned[..., 0]).mean() < 60
    assert image_transforms.evaluation_image(data, 64).shape == (64, 64, 3)


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (64, 64), (50, 700), (1, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "grey", "CMYK", "RGB", "RGBA", "LA", "L", "P", "P+tRNS", "1"])
def test_evaluation_is_resize_and_centre_crop_of_everybody(size: tuple[int, int], kind: str) -> None:
    """The result of torchvision's Resize and CenterCrop, and open_clip's and OpenAI's conversion then."""
    mode = {"JPEG": "RGB", "grey": "L", "P+tRNS": "P"}.get(kind, kind)
    picture = photo(*size)
    if mode in ("RGBA", "LA"):
        ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[::-1]).astype(np.uint8)
        picture.putalpha(Image.fromarray(ramp))
    clear = {"transparency": bytes(range(0, 256, 4))} if kind == "P+tRNS" else {}
    picture = picture.quantize(64) if mode == "P" else picture.convert(mode)
    data = encoded(picture, "JPEG" if kind in ("JPEG", "grey", "CMYK") else "PNG", **clear)
    image = Image.open(io.BytesIO(data))
    image.info.clear()  # Pillow warns of a palette with transparency
    assert image.mode == mode
    short = min(size)
    image = image.resize([int(32 * side / short) for side in size], Image.Resampling.BICUBIC)
    left, top = (round((side - 32) / 2.0) for side in image.size)
    expected = np.array(image.crop((left, top, left + 32, top + 32)).convert("RGB"))
    assert (centre(data, 32) == expected).all()


def test_evaluation_shows_pictures_upright() -> None:
    stored = np.asarray(photo(40, 30))
    for orientation, turn in enumerate(exif.TURNS[1:], 1):
        turned = Image.fromarray(stored) if turn is None else Image.fromarray(stored).transpose(turn)
        assert (np.asarray(turned) == exif.upright(stored, orientation)).all(), orientation
        tags = Image.Exif()
        tags[0x0112] = orientation
        data = encoded(Image.fromarray(stored), "PNG", exif=tags)
        assert (centre(data, 16) == centre(encoded(turned, "PNG"), 16)).all()


def test_of_a_long_picture_only_the_centre_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    stripes = Image.new("RGB", (4, 3000), "red")
    stripes.paste("blue", (0, 1490, 4, 1510))
    asked: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def watched(image: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        asked.append(size)
        return resize(image, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", watched)
    found = centre(encoded(stripes, "PNG"), 64)
    assert asked == [(64, 64)] and (found[..., 2] > 250).all()


def test_what_takes_too_long_is_killed_and_the_next_picture_decodes() -> None:
    child, wanted = PixelDecoder(Wanted(form="whole")), Wanted(form="whole")
    child._child = Child("tests.decoder_hooks:dawdle", wanted, memory_bytes=1 << 30, seconds=3)
    with pytest.raises(BadImage) as caught:
        child.decode(b"sleep")
    assert caught.value.reason == "decode_timeout"
    assert child.decode(encoded(photo(40, 30), "PNG")).shape == (30, 40, 3)
    child.close()


DATA = Path(__file__).resolve().parents[2] / "shared/data/hostile"


@pytest.mark.skipif(not DATA.exists(), reason="no sample data beside the checkout")
def test_every_hostile_file_is_a_picture_or_has_a_reason() -> None:
    for line in (DATA / "INDEX.jsonl").read_text().splitlines():
        data = (DATA / json.loads(line)["file"]).read_bytes()
        for decode in (image_transforms.decode, image_transforms.size_of):
            try:
                decode(data)
            except BadImage as bad:
                assert bad.reason

"""Named sets of options: the values behind `--queries all` and `--preset`. Flags win over them."""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.captions.text import CUT_CHARS
from pipeline.config import Counterparts, flag
from pipeline.options.images import MAX_JPEG_SIDE

ALL: Final = "all"
"""In place of a query list: every caption is wanted."""

Value = str | int | float | bool | tuple[str, ...]

_EVERY_TEXT: Final[Mapping[str, Value]] = {
    "min_chars": 0, "max_chars": CUT_CHARS, "min_words": 0, "max_words": CUT_CHARS, "max_repetition": 1.0,
    "file_names": False, "camera_settings": False, "boilerplate": False, "undecodable": False,
    "shared_captions": 0, "placeholder_captions": 0,
}  # fmt: skip
_EVERY_SIZE: Final[Mapping[str, Value]] = {"min_side": 0, "max_aspect": float(MAX_JPEG_SIDE), "min_bytes": 0}

EVERY_ROW: Final[Mapping[str, Value]] = {
    "lang": "any", **_EVERY_TEXT, "empty_captions": True, "dedup": "off", "max_captions": 10_000,
}  # fmt: skip
"""The values of `--queries all`: every caption filter, shared and placeholder rules and merging are off."""

PRESETS: Final[Mapping[str, Mapping[str, Value]]] = {
    # img2dataset 1.47 keeps whatever OpenCV decodes, at --encode_quality 95.
    "img2dataset": {
        "queries": ALL, **EVERY_ROW, **_EVERY_SIZE, "allow_animated": True, "quality": 95,
    },
    # Radford et al. 2021, section 2.2: a text that includes a query, up to 20,000 pairs each; no other rule.
    "clip": {"lang": "any", **_EVERY_TEXT, **_EVERY_SIZE, "per_query": 20_000},
    # Xu et al. 2023, section 3: English, a text that includes a query by the rule of their code, balanced at
    # 20,000; no length rules.
    "metaclip": {"lang": "en", "rule": "metaclip", **_EVERY_TEXT, **_EVERY_SIZE, "per_query": 20_000},
    # Schuhmann et al. 2021, and crawling@home's code: 5 characters, 5,000 bytes, JPEG, PNG and WebP.
    "laion400m": {
        "queries": ALL, "lang": "en", **_EVERY_TEXT, "min_chars": 5, **_EVERY_SIZE, "min_bytes": 5_000,
        "max_pixels": 89_478_484, "formats": ("jpeg", "png", "webp"),
    },
    # COYO-700M, README: more than 5 characters, 3 to 256 words, at most 1,000 characters; texts seen more
    # than 10 times go; 5 KB, 200 pixels, 3:1.
    "coyo": {
        "queries": ALL, "lang": "en", **_EVERY_TEXT, "min_chars": 6, "max_chars": 1_000, "min_words": 3,
        "max_words": 256, "shared_captions": 10, "min_bytes": 5_000, "min_side": 200, "max_aspect": 3.0,
    },
    # Changpinyo et al. 2021, section 2: 3 to 256 words, repetition up to 0.2, JPEG above 400 pixels, 2.5:1.
    "cc12m": {
        "queries": ALL, "lang": "en", **_EVERY_TEXT, "min_words": 3, "max_words": 256, "max_repetition": 0.2,
        "min_bytes": 0, "min_side": 401, "max_aspect": 2.5, "formats": ("jpeg",),
    },
    # Jia et al. 2021, section 3: 3 to 20 words, texts of more than 10 images go; above 200 pixels, under 3:1.
    "align": {
        "queries": ALL, "lang": "en", **_EVERY_TEXT, "min_words": 3, "max_words": 20, "shared_captions": 10,
        "min_bytes": 0, "min_side": 201, "max_aspect": 2.9999,
    },
    # Gadre et al. 2023, basic filtering: English, more than 2 words and 5 characters; 200 pixels, 3:1.
    "datacomp-basic": {
        "queries": ALL, "lang": "en", **_EVERY_TEXT, "min_chars": 6, "min_words": 3, "min_bytes": 0,
        "min_side": 200, "max_aspect": 3.0,
    },
}  # fmt: skip
"""Options by name: the filters that a recipe publishes and that need no model; all others are off."""


def implied(arguments: Sequence[str]) -> list[str]:
    """Return the flags for which --queries all and --preset among the arguments stand; ValueError."""
    values: dict[str, Value] = dict(EVERY_ROW) if last(arguments, "--queries") == ALL else {}
    if name := last(arguments, "--preset"):
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; there is {', '.join(PRESETS)}")
        values |= PRESETS[name]
    return [part for option, value in values.items() for part in flag(option, value)]


def last(arguments: Sequence[str], option: str) -> str:
    """Return the last value of an option among arguments, "" if it is missing."""
    found = ""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else arguments[index + 1] if index + 1 < len(arguments) else ""
    return found


IMG2DATASET: Final = Counterparts(
    tool="img2dataset",
    flags={
        "url_list": "--source", "input_format": "--source-format", "output_folder": "--out",
        "output_format": "shards are WebDataset with Parquet beside them; `openwit convert` writes others",
        "save_additional_columns": "--keep-columns, once per column,",
        "resize_only_if_bigger": "not needed: images are never enlarged",
        "upscale_interpolation": "not needed: images are never enlarged",
        "downscale_interpolation": "images are always reduced by area",
        "encode_quality": "--quality", "encode_format": "images are always stored as JPEG",
        "skip_reencode": "every image is decoded and encoded again, for safety",
        "min_image_size": "--min-side", "max_image_area": "--max-pixels", "max_aspect_ratio": "--max-aspect",
        "processes_count": "--workers", "thread_count": "--max-inflight",
        "number_sample_per_shard": "--samples-per-shard",
        "oom_shard_count": "not needed: numbers grow with the shards", "retries": "--rounds",
        "incremental_mode": "not needed: run the same command again to continue",
        "compute_hash": "not needed: the rows always have sha256",
        "verify_hash": "not supported; --hash-list refuses known images", "extract_exif": "--keep-exif",
        "disallowed_header_directives": "--opt-out", "user_agent_token": "--contact",
        "distributor": "--workers (this machine) or --runner (a cluster)",
        "subjob_size": "not needed: a run is always resumable",
        "enable_wandb": "see report/index.html and `openwit status`",
        "wandb_project": "see report/index.html and `openwit status`", "max_shard_retry": "--rounds",
        "bbox_col": "not supported",
        "disable_all_reencoding": "every image is decoded and encoded again, for safety",
        "log_level": "--quiet or --verbose",
    },
)  # fmt: skip
"""Options of img2dataset that have another name here."""

"""Named sets of options: what `--queries all` and `--preset` stand for. What is typed wins over them."""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.captions.text import CUT_CHARS
from pipeline.config import flag

ALL: Final = "all"
"""In place of a query list: every caption is wanted."""

Value = str | int | float | bool

EVERY_ROW: Final[Mapping[str, Value]] = {
    "lang": "any", "min_chars": 0, "max_chars": CUT_CHARS, "min_words": 0, "max_words": CUT_CHARS,
    "max_repetition": 1.0, "file_names": False, "camera_settings": False, "boilerplate": False,
    "undecodable": False,
    "empty_captions": True, "shared_captions": 0, "placeholder_captions": 0, "dedup": "off",
    "max_captions": 10_000,
}  # fmt: skip
"""What `--queries all` stands for: every caption filter, shared and placeholder rules and merging are off."""

PRESETS: Final[Mapping[str, Mapping[str, Value]]] = {
    # img2dataset 1.47 keeps whatever OpenCV decodes, at --encode_quality 95.
    "img2dataset": {
        "queries": ALL, **EVERY_ROW, "min_side": 0, "max_aspect": 65_500.0, "min_bytes": 0,
        "allow_animated": True, "quality": 95,
    },
}  # fmt: skip
"""Options by name; each is a complete answer to what the recipe of that name takes."""


def implied(arguments: Sequence[str]) -> list[str]:
    """Return the flags for which --queries all and --preset among the arguments stand; ValueError."""
    values: dict[str, Value] = dict(EVERY_ROW) if last(arguments, "--queries") == ALL else {}
    if name := last(arguments, "--preset"):
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; there is {', '.join(PRESETS)}")
        values |= PRESETS[name]
    return [part for option, value in values.items() for part in flag(option, value)]


def last(arguments: Sequence[str], option: str) -> str:
    """Return the last value of an option among arguments, "" if it is not there."""
    found = ""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else arguments[index + 1] if index + 1 < len(arguments) else ""
    return found


IMG2DATASET: Final[Mapping[str, str]] = {
    "url_list": "--source", "input_format": "--source-format", "output_folder": "--out",
    "output_format": "not there: shards are always WebDataset with Parquet beside",
    "save_additional_columns": "--keep-columns, once for each column",
    "resize_only_if_bigger": "not needed: images are never enlarged", "upscale_interpolation": "not needed",
    "downscale_interpolation": "not there: images are reduced by area",
    "encode_quality": "--quality", "encode_format": "not there: images are stored as JPEG",
    "skip_reencode": "not there: every image is decoded and encoded anew",
    "min_image_size": "--min-side", "max_image_area": "--max-pixels", "max_aspect_ratio": "--max-aspect",
    "processes_count": "--workers", "thread_count": "--max-inflight",
    "number_sample_per_shard": "--samples-per-shard", "oom_shard_count": "not needed",
    "retries": "--rounds", "incremental_mode": "not needed: the same command goes on",
    "compute_hash": "not needed: sha256 is always in the rows", "verify_hash": "not there",
    "extract_exif": "--keep-exif", "disallowed_header_directives": "--opt-out",
    "user_agent_token": "--contact", "distributor": "--workers, or --runner on a cluster",
    "subjob_size": "not needed", "enable_wandb": "not there: report/index.html and openwit status",
    "wandb_project": "not there", "max_shard_retry": "--rounds", "bbox_col": "not there",
    "disable_all_reencoding": "not there: every image is decoded and encoded anew", "log_level": "not there",
}  # fmt: skip
"""Options of img2dataset that have another name here, and what to give instead."""

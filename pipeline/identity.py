"""`openwit identity`: make the key of a crawler, and the directory file by which sites verify it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.text import Text

from pipeline import config as parser
from pipeline import keys
from pipeline.cli_runtime import guarded
from pipeline.options.finished import IdentityConfig
from pipeline.terminal import output, terminal

DIRECTORY: Final = ".well-known/http-message-signatures-directory"
"""Path below the origin where the public keys are hosted."""
MEDIA_TYPE: Final = "application/http-message-signatures-directory+json"
PRIVATE: Final = "private.jwk"


def main(argv: Sequence[str], prog: str = "openwit identity") -> int:
    """Make a key; return 0."""
    options, _ = parser.parse(IdentityConfig, argv, prog=prog)
    return guarded(prog, terminal(), "", lambda: _make(options))


def _make(options: IdentityConfig) -> int:
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        key = keys.generate(folder / PRIVATE, options.url.rstrip("/"))
    except FileExistsError:
        raise ValueError(f"{folder / PRIVATE} is there already: a new key goes into another folder") from None
    place = folder / "public" / DIRECTORY
    place.parent.mkdir(parents=True, exist_ok=True)
    entry = {**key.public, "use": "sig", "nbf": int(time.time())}
    place.write_text(json.dumps({"keys": [entry]}, indent=1) + "\n")
    for line in (
        f"private key   {folder / PRIVATE}: for --sign-with or --sign-manifest, not for both; keep it",
        f"public key    {key.thumbprint}",
        f"to be hosted  {place} at {options.url.rstrip('/') or 'https://...'}/{DIRECTORY}, as {MEDIA_TYPE}",
    ):
        output().print(Text(line), soft_wrap=True)
    return 0

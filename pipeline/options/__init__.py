"""The options of the crawl, as frozen dataclasses. Importing them needs nothing but the core's packages."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.captions.text import TextRules
    from pipeline.options.crawl import CrawlConfig
    from pipeline.options.fetch import FetchOptions
    from pipeline.options.images import ImageOptions
    from pipeline.options.sources import SourceOptions
else:
    _MODULES = {
        "CrawlConfig": "pipeline.options.crawl", "FetchOptions": "pipeline.options.fetch",
        "ImageOptions": "pipeline.options.images", "SourceOptions": "pipeline.options.sources",
        "TextRules": "pipeline.captions.text",
    }  # fmt: skip

    def __getattr__(name: str) -> Any:
        """Import a class when it is asked for: a decoding child needs one of them and no command's parser."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)


__all__ = ["CrawlConfig", "FetchOptions", "ImageOptions", "SourceOptions", "TextRules"]

"""The options of the crawl, as frozen dataclasses. Importing them needs nothing but the core's packages."""

from pipeline.captions.text import TextRules
from pipeline.options.crawl import CrawlConfig
from pipeline.options.fetch import FetchOptions
from pipeline.options.images import ImageOptions
from pipeline.options.sources import SourceOptions

__all__ = ["CrawlConfig", "FetchOptions", "ImageOptions", "SourceOptions", "TextRules"]

"""The crawl: candidates, select, fetch in rounds, finish; each durable, each continued where it stopped."""

from pipeline.crawl.extending import Base, publish
from pipeline.crawl.fetching import fetch, remove_staging
from pipeline.crawl.finishing import finish
from pipeline.crawl.job import Crawl
from pipeline.crawl.retrying import reopen, resume, retried
from pipeline.crawl.selecting import candidates, select

__all__ = [
    "Base", "Crawl", "candidates", "fetch", "finish", "publish", "remove_staging", "reopen",
    "resume", "retried",
    "select",
]  # fmt: skip

"""The options of the commands on a run that is there, from `status` to `browse`."""

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import UseAppendAction

from pipeline import hashlist
from pipeline.score import names as scorer_names

if TYPE_CHECKING:
    from pipeline.tombstones import Tombstones

Several = UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Show the progress of a run, from its files: steps, rates, reasons, slow tasks, workers, how to
    continue.

    It also reads the folder of an overlap report, and the NAME.work of a query list.
    """

    EXAMPLES: ClassVar = ("openwit status --run run",)
    """Lines of the help."""

    run: str
    """Folder of the run, local or on an object store."""
    json: bool = False
    """Print one JSON object to standard output instead."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a finished run: sha256 of every shard, counts, tar against Parquet, and the accounting.

    And the numbers of its EU summary, and the signature of its manifest, where it has them.
    """

    EXAMPLES: ClassVar = (
        "openwit verify --run run",
        "openwit verify --run run --against-web 100 --contact you@example.org",
    )
    """Lines of the help."""

    run: str
    """Folder of the run."""
    signed_by: str = ""
    """Who must have signed the manifest: a file of public keys, as `openwit identity` writes it, or a key's
    thumbprint."""
    sign_manifest: str = ""
    """Private key of `openwit identity` by which the manifest is signed if nothing is wrong, such as after a
    takedown: manifest.dsse.json."""
    against_web: int = 0
    """Request this many of the set's URLs, chosen at random, again, under the crawl's own rules and delays,
    and say how many still give the same bytes or the same picture. Nothing is written."""
    seed: int = 0
    """Decides which URLs --against-web asks for."""
    contact: str = ""
    """URL or mail address for the User-Agent of --against-web, as for `openwit crawl`."""
    allow_network: Several = ()
    """Network (CIDR) that --against-web may ask although it is not public. May be given several times."""
    sign_with: str = ""
    """Private key of `openwit identity` by which the requests of --against-web are signed."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that cannot be carried out."""
        if self.against_web < 0 or self.seed < 0:
            raise ValueError("against_web and seed must not be negative")


@dataclass(frozen=True, kw_only=True)
class SummaryConfig:
    """Write the EU's public summary of training content of a finished run, with your answers.

    AI Act, Article 53(1)(d). A crawl writes it as well; fields that only a person can fill wait there.
    """

    EXAMPLES: ClassVar = ("openwit summary --run run --answers answers.toml",)
    """Lines of the help."""

    run: str
    """Folder of the finished run; the files are report/eu-training-summary.html and .json in it."""
    answers: str = ""
    """TOML file of a person's answers by field, such as `provider = "Example Ltd, ai@example.org"`. They stay
    in the summary whenever it is written again, until others are given."""
    sme: bool = False
    """List the top 5% of the domain names, or 1,000 if that is less, as small and medium-sized providers may,
    in place of the top 10%."""


@dataclass(frozen=True, kw_only=True)
class IdentityConfig:
    """Make a key for signed requests or manifests, and the file by which others verify its signatures.

    The key is Ed25519. `crawl --sign-with` signs requests as Web Bot Auth says (RFC 9421); sites look the
    public key up at --url. Hosting, rotation and the view of sites: docs/responsible-use.md.
    """

    EXAMPLES: ClassVar = ("openwit identity --out identity --url https://bot.example.org",)
    """Lines of the help."""

    out: str
    """Folder for private.jwk, which stays with you, and public/.well-known/..., which is to be hosted."""
    url: str = ""
    """Origin at which the directory file is hosted, https and a host without a path; needed to sign
    requests, not manifests."""

    def __post_init__(self) -> None:
        """Raise ValueError for a URL that no site could look up."""
        if self.url and not re.fullmatch(r"https://[a-z0-9.-]+(:[0-9]+)?/?", self.url):
            raise ValueError(f"--url must be an origin such as https://bot.example.org, not {self.url!r}")


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Write the shards of an extended run again, without the samples that it has dropped.

    For readers other than openwit's own. Run the same command again to continue where it stopped.
    """

    EXAMPLES: ClassVar = ("openwit compact --run run --out run-compacted",)
    """Lines of the help."""

    run: str
    """Folder of the finished run, which stays as it is."""
    out: str
    """Folder to write: a run of its own, with shards, rejected rows, counts, report and manifest."""
    workers: int = 1
    """Shards that are written at a time on this machine; on a cluster Beam's own flags decide."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that cannot be carried out."""
        if self.run.rstrip("/") == self.out.rstrip("/"):
            raise ValueError("--out must be another folder than --run")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")


@dataclass(frozen=True, kw_only=True)
class TakedownConfig:
    """Remove samples from every file of a run, and refuse them in later rounds and extensions.

    An image goes with all its captions and with every copy of the same bytes. Run the same command again to
    finish a takedown that was interrupted.
    """

    EXAMPLES: ClassVar = (
        "openwit takedown --run run --url https://example.org/picture.jpg",
        "openwit takedown --run run --domain example.org",
    )
    """Lines of the help."""

    run: str
    """Folder of the run."""
    url: Several = ()
    """URL of an image, as found or after redirects; or of a page, for all images found on it."""
    domain: Several = ()
    """Domain of which all images and all pages are meant, names below it included."""
    sha256: Several = ()
    """SHA-256 of an image's bytes as fetched: the column sha256 of the shards."""
    phash: Several = ()
    """Perceptual hash of a picture, 64 hex digits as in the column phash, however the picture is encoded."""
    phash_distance: int = hashlist.DISTANCE
    """Bits of 256 in which a picture may differ from --phash."""
    overlap: Several = ()
    """Folder of an `openwit overlap` report on the run, to be cleaned as well."""
    check: bool = False
    """Say how much would be removed, and write nothing."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that are not understood."""
        self.request()

    def request(self) -> "Tombstones":
        """Return the requested hashes, as digests."""
        from pipeline.tombstones import request

        return request(
            url=self.url, domain=self.domain, sha256=self.sha256, phash=self.phash,
            distance=self.phash_distance,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score the samples of a finished run; its shards stay as they are.

    openwit score --run run --scorer clip-score=runs/b32

    The scores are columns for `openwit train --keep-if "score_clip >= 0.28"`, or "top(score_clip, 0.3)" for
    the best 30%. Run the same command again to continue where it stopped, or after the run was extended.
    """

    EXAMPLES: ClassVar = ("openwit score --run run --scorer clip-score=model",)
    """Lines of the help."""

    run: str
    """Folder of the run."""
    scorer: Several
    """clip-score=CHECKPOINT: cosine of picture and caption, score_clip; dfn=CHECKPOINT: the same by a model
    that was trained to filter, score_dfn; clip-score-masked=CHECKPOINT,DETECTOR: with the text in the picture
    painted over, which a detector in ONNX finds, score_clip_masked; aesthetic=CHECKPOINT,HEAD: a linear head
    (.safetensors or .npz) on the model's embeddings, score_aesthetic; nsfw: Yahoo's open_nsfw, score_nsfw;
    faces: how many CenterFace finds, score_faces; sharpness: score_sharpness; or MODULE:CLASS[=FILES] of your
    own. A checkpoint is a training run, or weights of open_clip, OpenAI or Hugging Face. May be given several
    times."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes on this machine, each with models of its own; on a cluster Beam's own flags decide."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that cannot be carried out."""
        if not self.scorer:
            raise ValueError("give at least one --scorer")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if len({*map(scorer_names.name_of, self.scorer)}) < len(self.scorer):
            raise ValueError("--scorer names one scorer twice")


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Index a dataset for `openwit browse`: the place of each picture in its tar, and a full-text search.

    Only shards that have changed since the last time are read again.
    """

    EXAMPLES: ClassVar = ("openwit index run",)
    """Lines of the help."""

    run: str
    """Folder of a finished run, local or on an object store, or a glob of WebDataset archives such as
    'cc12m/*.tar'."""
    webshart: str = ""
    """Folder for NAME.json of each shard: its members' offsets and lengths, as webshart reads them for random
    access; not written by default."""
    energon: str = ""
    """Folder for NAME.tar.idx of each shard, as Megatron-Energon reads them beside the shards; not written by
    default."""
    check: bool = False
    """Print the plan, and write nothing."""


@dataclass(frozen=True, kw_only=True)
class BrowseConfig:
    """Look at a dataset in the browser: pictures, queries, sites, rejects, search.

    A run can be watched while it is crawled.
    """

    EXAMPLES: ClassVar = (
        "openwit browse run",
        "openwit browse 'cc12m/*.tar' --port 8001",
    )
    """Lines of the help."""

    run: str
    """Folder of a run, local or on an object store, or a glob of WebDataset archives such as
    'cc12m/*.tar'."""
    host: str = "127.0.0.1"
    """Address to listen on. With any address but loopback's, everybody who has the printed URL, which holds a
    token, sees the dataset."""
    port: int = 8000
    """Port to listen on, 0 for any that is free."""
    open: bool = True
    """Open the page in the browser."""
    checkpoint: str = ""
    """A CLIP model for search by meaning: by a text, or by a picture. A training run, or
    weights of open_clip, OpenAI or Hugging Face. Every picture is encoded once, before the page opens."""
    overlap: Several = ()
    """Folder of an `openwit overlap` report on this dataset: its pairs, at any threshold. May be given
    several times."""
    mask_contacts: bool = True
    """Show mail addresses and telephone numbers in captions as [email] and [phone]; the search finds them
    all the same."""
    check: bool = False
    """Print the plan, and write nothing."""


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Send a finished run to the Hugging Face Hub as a dataset: shards, rows, account, report and card.

    Log in first, by `hf auth login` or HF_TOKEN. Run the same command again to continue where it stopped, and
    after `extend` or `takedown`: files that the run no longer has are removed there.
    """

    EXAMPLES: ClassVar = ("openwit push run --to hf://datasets/you/dogs",)
    """Lines of the help."""

    run: str
    """Folder of the finished run on this machine."""
    to: str
    """Repository, as hf://datasets/OWNER/NAME. It is created if it does not exist."""
    private: bool = False
    """Make a new repository private."""
    forget_history: bool = False
    """Remove the repository's earlier commits, which still hold samples that a takedown removed."""
    check: bool = False
    """Print the number and size of the files and the effective configuration, and send nothing."""


@dataclass(frozen=True, kw_only=True)
class PullConfig:
    """Fetch a run from the Hugging Face Hub and check every hash and count of it.

    Run the same command again to continue where it stopped.
    """

    EXAMPLES: ClassVar = ("openwit pull hf://datasets/you/dogs --out copy",)
    """Lines of the help."""

    source: str
    """Repository, as hf://datasets/OWNER/NAME."""
    out: str
    """Folder to write."""
    revision: str = ""
    """Branch, tag or commit of the repository; by default main."""
    check: bool = False
    """Print the number of files and the effective configuration, and fetch nothing."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Write a finished run in another form: plain files, or Parquet with the images in it.

    The run stays as it is. Run the same command again to continue where it stopped.
    """

    EXAMPLES: ClassVar = (
        "openwit convert run --format parquet --out run-parquet",
        "openwit convert run --format files --out run-files",
    )
    """Lines of the help."""

    run: str
    """Folder of the finished run."""
    out: str
    """Folder to write. A later takedown does not reach it: remove it and convert again."""
    format: Literal["files", "parquet"]
    """files: NNNNN/KEY.jpg, KEY.txt and KEY.json; parquet: NNNNN.parquet with a column image, which
    `datasets` and the viewer of the Hugging Face Hub show as pictures. Both have NNNNN.parquet with all other
    columns."""
    check: bool = False
    """Print the plan, and write nothing."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.run.rstrip("/") == self.out.rstrip("/"):
            raise ValueError("--out must be another folder than --run")

"""Whether a picture may be kept, by its terms: opt-outs first, then its origin, then its licence."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.http.fetch_url import Outcome
from pipeline.http.optout import reason as opt_out_reason
from pipeline.images.said import Said
from pipeline.options.fetch import OPT_OUTS
from pipeline.rights.licences import is_among
from pipeline.rights.statements import Rights, resolve, union


@dataclass(frozen=True)
class Terms:
    """The opt-outs to honour, and the origins and licences to keep."""

    opt_out: Collection[str] = OPT_OUTS
    drop_synthetic: bool = False
    licences: tuple[str, ...] = ()
    """Identifiers and families of those that are kept; () keeps all."""
    pages: Mapping[bytes, str] = field(default_factory=dict)
    """The pages' statements on an image, by uid: for `licences`, and for the terms that they link to."""

    def judge(self, uid: bytes, outcome: Outcome, said: Said) -> Outcome:
        """Return the answer, with a reason if it is refused."""
        if outcome.reason:
            return outcome
        if "xmp" in self.opt_out and said.prohibited:
            return outcome._replace(reason=opt_out_reason("xmp"), detail=said.prohibited)
        if "c2pa" in self.opt_out and said.refused:
            return outcome._replace(reason=opt_out_reason("c2pa"), detail=said.refused)
        if "rsl" in self.opt_out and said.terms:
            return outcome._replace(reason=opt_out_reason("rsl"), detail=f"its XMP {said.terms}"[:300])
        if self.drop_synthetic and said.synthetic:
            detail = f"{said.synthetic}: {said.synthetic_source}"
            return outcome._replace(reason="synthetic", detail=detail)
        if self.licences and (
            detail := refused(resolve(self.pages.get(uid, ""), said.rights), self.licences)
        ):
            return outcome._replace(reason="licence", detail=detail)
        return outcome


def refused(rights: Rights, licences: tuple[str, ...]) -> str:
    """Return why a licence is none of those wanted, or ""."""
    if is_among(rights.licence, licences):
        return ""
    return f"{rights.licence}: {rights.licence_source}" if rights.licence else "none is stated"


def of_pages(unit: pa.Table) -> dict[bytes, str]:
    """Return the statements of the pages of each image of caption rows, by uid, where any says something."""
    found: dict[bytes, str] = {}
    for uid, text in zip(unit["uid"].to_pylist(), unit["page_rights"].to_pylist(), strict=True):
        if text:
            found[uid] = union((found.get(uid, ""), text))
    return found


def unlicensed(table: pa.Table, starts: list[int], licences: tuple[str, ...]) -> list[bool]:
    """Return for groups of rows, given by their starts, whether their statements name no such licence."""
    pages, own = table["page_rights"].to_pylist(), table["rights"].to_pylist()
    stops = [*starts[1:], len(table)]
    texts = (
        (union(pages[start:stop]), union(own[start:stop])) for start, stop in zip(starts, stops, strict=True)
    )
    return [bool(refused(resolve(*pair), licences)) for pair in texts]

"""Match captions that you have to a list of queries, and keep at most two of them per query, as CLIP did."""

import openwit

QUERIES = ["red house", "boat", "lake"]
CAPTIONS = [
    "A red house at the lake", "the old boat", "Boat on a lake, early morning", "a red car",
    "boats in the harbour", "Red house, white door", "my boat and my neighbour's boat",
]  # fmt: skip


def main() -> None:
    """Print which queries keep each caption."""
    matcher = openwit.Matcher(QUERIES)
    matches = [matcher.match(caption) for caption in CAPTIONS]
    uids = [openwit.uid(f"http://example.com/{number}.jpg") for number in range(len(CAPTIONS))]
    kept = openwit.balance(uids, matches, QUERIES, per_query=2)
    for caption, matched, keeps in zip(CAPTIONS, matches, kept, strict=True):
        names = ", ".join(QUERIES[query] for query in keeps)
        print(f"{caption:34} matches {len(matched)}, kept by: {names or '-'}")


if __name__ == "__main__":
    main()

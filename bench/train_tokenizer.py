"""Captions per CPU second of the tokenizer, cold and warm, beside open_clip's SimpleTokenizer.

    python -m bench.train_tokenizer [CAPTIONS.txt|.parquet]

One thread. Cold is the first pass over the captions, warm the second. The captions are one per line, or a
column TEXT or caption; by default the web captions of the sample data beside the checkout.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import train_peers
from train.tokenizer import Tokenizer, installed_vocabulary

DEFAULT = Path(__file__).resolve().parents[2] / "shared/data/text/img2dataset_test_10000.parquet"


def captions(path: Path) -> list[str]:
    """Return the captions of a file."""
    if path.suffix != ".parquet":
        return path.read_text(encoding="utf-8").splitlines()
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    column = "TEXT" if "TEXT" in table.column_names else "caption"
    return [text for text in table[column].to_pylist() if text]


def rates(encode: Callable[[str], object], texts: list[str]) -> list[float]:
    """Return captions per CPU second of two passes."""
    found = []
    for _ in range(2):
        began = time.process_time()
        for text in texts:
            encode(text)
        found.append(round(len(texts) / (time.process_time() - began)))
    return found


def main() -> None:
    """Measure and print one JSON object."""
    texts = captions(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
    path = installed_vocabulary()
    if path is None:
        raise SystemExit("CLIP's vocabulary is needed: pip install --no-deps open_clip_torch")
    ours = Tokenizer.load(path)
    result: dict[str, object] = {"bench": "train_tokenizer", "captions": len(texts)}
    result["ours_cold"], result["ours_warm"] = rates(ours.encode, texts)
    open_clip = train_peers.open_clip()
    if open_clip is not None:
        peer = open_clip.tokenizer.SimpleTokenizer()
        result["open_clip_cold"], result["open_clip_warm"] = rates(peer.encode, texts)
        different = sum(ours.encode(t, None)[1:-1] != peer.encode(t) for t in texts)
        result["different"] = different
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

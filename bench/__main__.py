"""Run the benchmarks that need no input of yours, in turn: `make bench`.

The others take real inputs or much time: queries_wikitext, queries_scale, queries_match, overlap_recall,
overlap_search, overlap_text, overlap_pairs, detector_gpu, detector_train, train_cifar,
eval_cifar, train_loader, train_tokenizer, train_step, img2dataset, politeness, politeness_simulation,
plan_rates, plan_check, figure2, curation, kills, cluster, image, rights, faces and report; each explains
itself with --help.
bench/gpu.sh is for a GPU.
"""

import subprocess
import sys

COMMANDS = (
    ["bench.wat"],
    ["bench.match"],
    ["bench.resize"],
    ["bench.select_rows", "--rows", "100000", "1000000"],
    ["bench.train_loss", "--batches", "1024", "4096"],
)


def main() -> int:
    """Return 1 if one of them failed."""
    failed = []
    for module, *arguments in COMMANDS:
        print(f"\n== python -m {module} {' '.join(arguments)}", flush=True)
        if subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode:
            failed.append(module)
    print(f"\nfailed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

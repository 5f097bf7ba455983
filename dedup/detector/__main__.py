"""`torchrun --nproc-per-node N -m dedup.detector train ...`: the same as `openwit detector train ...`."""

import sys

from dedup.detector.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

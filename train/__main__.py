"""`torchrun --nproc-per-node N -m train ...` and `python -m train ...`: the same as `openwit train ...`."""

import sys

from train.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

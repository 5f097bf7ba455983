"""`torchrun --nproc-per-node N -m train ...` and `python -m train ...`: the same as `openwit train ...`."""

import sys

from beam_job import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

"""``python -m clipaffect``."""

import sys

if sys.argv[1:2] == ["gpu-check"]:
    # Before the other commands, whose packages a plain checkout lacks.
    from clipaffect.ops.gpu_check import gpu_check

    sys.exit(gpu_check(sys.argv[2:]))

from clipaffect.cli.main import main

main()

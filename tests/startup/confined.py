"""Run a command with less than this process may: python confined.py [--obey] [--bytes N] COMMAND...

`--obey`: permissions of files hold for root, too. `--bytes`: no file may grow beyond that many.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
"""Numbers of <linux/prctl.h> and <linux/capability.h>."""


def obey() -> None:
    """Give up what lets root pass over permissions; it takes effect with the command."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--obey", action="store_true")
    parser.add_argument("--bytes", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.obey and os.geteuid() == 0:
        obey()
    if arguments.bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.bytes, resource.RLIM_INFINITY))
    os.execv(arguments.command[0], arguments.command)


if __name__ == "__main__":
    main()

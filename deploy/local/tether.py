"""Run a command that ends when its parent does: `python tether.py PARENT_PID COMMAND ...`.

Whoever starts a part may be killed with -9 and then cannot stop it. On Linux the kernel does it:
PR_SET_PDEATHSIG stays set over `exec`, so the command keeps this process's id and needs to know
nothing of it. SIGKILL, because every part is built to be killed, and because a port that is free at
once is worth more here than a goodbye.

It stands before `exec` in a process of its own (some 15 ms) because code between fork and exec in a
program that has threads may deadlock. Elsewhere than on Linux it does nothing but run the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the whole purpose


if __name__ == "__main__":
    main()

"""Ends a command's processes when the process that started it has gone, however that ended.

`python guard.py GROUP` waits at its standard input: a byte says that the command has ended by itself; the end of the
input, that nobody is left who could say so. Standard library only, since it is started with every command.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

GRACE_S = 10


def end_group(group: int) -> None:
    """Ask all processes of a group to end, and end those that have not after a while."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            time.sleep(0.1)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    if not sys.stdin.buffer.read(1):
        end_group(int(sys.argv[1]))

"""What the hook costs at interpreter start: `python -m nnunet_mamba.discovery.benchmark`. Budget: 2 ms."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

RUNS = 40
BUDGET_MS = 2.0


def start_up_ms(autoload: bool) -> float:
    """One interpreter start in milliseconds, with the hook on or off."""
    environment = {**os.environ, "NNUNET_MAMBA_AUTOLOAD": "1" if autoload else "0"}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], env=environment, check=True)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Alternate the two, so that a change of the machine's speed meets both."""
    pairs = [(start_up_ms(True), start_up_ms(False)) for _ in range(RUNS)]
    with_hook, without = (statistics.median(times) for times in zip(*pairs, strict=True))
    extra = statistics.median(a - b for a, b in pairs)
    print(f"interpreter start, median of {RUNS}: {with_hook:.1f} ms with the hook, {without:.1f} ms without")
    print(f"the hook costs {extra:.2f} ms (median of paired differences), budget {BUDGET_MS} ms")


if __name__ == "__main__":
    main()

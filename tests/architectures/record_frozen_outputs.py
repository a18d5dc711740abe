"""Write frozen_outputs.json anew, after a network was changed on purpose."""

from __future__ import annotations

import json
from pathlib import Path

TARGET = Path(__file__).parent / "frozen_outputs.json"

if __name__ == "__main__":
    if not TARGET.exists():
        TARGET.write_text("{}")
    from tests.architectures.test_contract import NETWORKS, frozen_output

    values = {f"{r.name} {mixer} {dim}d": frozen_output(r, mixer, dim) for r, mixer in NETWORKS for dim in (2, 3)}
    TARGET.write_text(json.dumps(values, indent=1) + "\n")

"""`_StartHere.ipynb` runs from the first cell to the last, and is committed without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = json.loads((ROOT / "_StartHere.ipynb").read_text(encoding="utf-8"))

LAST = """
assert forecast.values.shape[:2] == (12, 96)
assert not unknown.known[unknown.index("a-new-machine")]
assert len(fan(forecast, server).data) == 4
print("the end was reached")
"""


def test_outputs_are_stripped():
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_all_cells_run_in_order(tmp_path):
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    small = "\nsettings = load_settings(**SMALL)\n"
    script = tmp_path / "notebook.py"
    network = {"hidden_size": 8, "attention_heads": 2, "windows_per_epoch": 256, "validation_windows": 64}
    script.write_text(f"SMALL = {network!r}\n" + cells[0] + small + "\n\n".join(cells[1:]) + LAST, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "the end was reached" in done.stdout

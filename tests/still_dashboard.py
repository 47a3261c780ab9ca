"""The dashboard's script with a clock that stands still: `streamlit run tests/still_dashboard.py`."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:  # Streamlit puts only the folder of its script there
    sys.path.insert(0, ROOT)

import dashboard_fetch  # noqa: E402 - after the path
import tft_dashboard_web  # noqa: E402

NOW = datetime(2026, 1, 5, 13, 12, tzinfo=timezone.utc)

if __name__ == "__main__":
    dashboard_fetch.utc_now = lambda: NOW  # the one place where the dashboard asks for the time
    tft_dashboard_web.main()

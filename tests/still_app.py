"""The dashboard with a clock that stands still: what `dashboard_pictures.py` takes pictures of."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dashboard_fetch

NOW = datetime(2026, 1, 5, 13, 12, tzinfo=timezone.utc)

dashboard_fetch.utc_now = lambda: NOW  # the one place where the dashboard reads the clock

import tft_dashboard_web  # noqa: E402

tft_dashboard_web.main()

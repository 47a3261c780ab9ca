"""What people can do from a server's page: take care of an alert, silence a server, and take either back.

Each is one request to the daemon, which judges it; what it says stays on the page until the next is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import streamlit as st

from dashboard_answers import Problem, Silence
from dashboard_draw import draw, render_problem
from dashboard_fetch import Connection
from dashboard_news import AlertRow
from dashboard_words import metric_text
from data_contract import METRIC_COLUMNS

_SILENCES: Final = {60: "1 h", 240: "4 h", 720: "12 h", 1440: "1 day", 10080: "1 week"}
_ALL_METRICS: Final = "all"
_TOLD: Final = "_told"  # what came of the last request: words, and the problem if there was one
_MOST_NAME, _MOST_COMMENT = 100, 1000  # characters that the daemon takes


def render_actions(connection: Connection, server: str, rows: Sequence[AlertRow], silences: Sequence[Silence]) -> None:
    """Forms below a server's alerts, and what came of the last one."""
    told = st.session_state.get(_TOLD)
    if told is not None and told[0] == server:
        if told[2] is not None:
            render_problem(told[2])
        else:
            draw("told", words=told[1])
    open_rows = [row for row in rows if row.alert.get("id")]
    with st.container(horizontal=True, key="actions"):
        for row in open_rows:
            _acknowledge(connection, server, row)
        with st.popover("Silence this server", icon=":material/notifications_off:"):
            _silence(connection, server)
        for silence in silences:
            if silence["server_name"] == server and silence["state"] != "expired":
                what = metric_text(silence["metric"]) if silence["metric"] else "all metrics"
                st.button(
                    f"End the silence of {what}",
                    key=f"end-{silence['id']}",
                    type="tertiary",
                    on_click=_request,
                    args=(connection, server, "The silence has ended.", "DELETE", f"/alerts/silences/{silence['id']}"),
                )


def _acknowledge(connection: Connection, server: str, row: AlertRow) -> None:
    alert = row.alert
    path = f"/alerts/{quote(alert.get('id', ''), safe='')}/acknowledge"
    label = metric_text(alert["metric"])
    if alert.get("acknowledged"):
        words = f"Nobody takes care of the {label} alert any more."
        st.button(
            f"I no longer take care of {label}",
            key=f"give-up-{alert['id']}",
            type="tertiary",
            on_click=_request,
            args=(connection, server, words, "DELETE", path),
        )
        return
    with (
        st.popover(f"Take care of {label}", icon=":material/check:"),
        st.form(f"acknowledge-{alert['id']}", border=False),
    ):
        author, comment = _who_and_why(alert["id"], "What is being done")
        if st.form_submit_button("Take care of it", type="primary"):
            body = {"author": author, "comment": comment}
            _request(connection, server, f"You take care of the {label} alert.", "POST", path, body)
            st.rerun(scope="fragment")


def _silence(connection: Connection, server: str) -> None:
    st.caption("Its alerts stay on the pages, but are sent to nobody.")
    with st.form("silence", border=False):
        metric = st.selectbox(
            "Metric",
            (_ALL_METRICS, *METRIC_COLUMNS),
            format_func=lambda name: "All metrics" if name == _ALL_METRICS else metric_text(name),
            key="silence-metric",
        )
        minutes = st.selectbox("For", list(_SILENCES), format_func=_SILENCES.__getitem__, key="silence-for") or 60
        author, comment = _who_and_why("silence", "Why")
        if st.form_submit_button("Silence it", type="primary"):
            body: dict[str, Any] = {
                "server_name": server,
                "author": author,
                "comment": comment,
                "duration_minutes": minutes,
            }
            if metric != _ALL_METRICS:
                body["metric"] = metric
            words = f"{server} is silenced for {_SILENCES[minutes]}."
            _request(connection, server, words, "POST", "/alerts/silences", body)
            st.rerun(scope="fragment")


def _who_and_why(key: str, question: str) -> tuple[str, str]:
    author = st.text_input("Your name", st.session_state.get("_author", ""), _MOST_NAME, key=f"author-{key}")
    comment = st.text_input(question, "", _MOST_COMMENT, key=f"comment-{key}")
    if author:
        st.session_state["_author"] = author  # asked for once
    return author, comment


def _request(connection: Connection, server: str, words: str, method: str, path: str, body: Any = None) -> None:
    problem: Problem | None = connection.change(method, path, body)
    st.session_state[_TOLD] = (server, words, problem)

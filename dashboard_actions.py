"""What people can do from the pages: take care of an alert, silence a server, and switch a demo's scenario.

Each is one request to the daemon, which judges it; what it says stays on the page until the next is tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import streamlit as st

from dashboard_answers import Problem, Silence
from dashboard_demo import SCENARIOS
from dashboard_draw import draw, render_problem
from dashboard_fetch import Connection
from dashboard_news import AlertRow
from dashboard_words import metric_text
from data_contract import METRIC_COLUMNS

_SILENCES: Final = {60: "1 h", 240: "4 h", 720: "12 h", 1440: "1 day", 10080: "1 week"}
_ALL_METRICS: Final = "all"
_FLEET: Final = ""  # no server
_TOLD: Final = "_told"  # what came of the last request: words, and the problem if there was one
_AUTHOR: Final = "_author"
_MOST_NAME, _MOST_COMMENT = 100, 1000  # characters that the daemon takes


def render_actions(connection: Connection, server: str, rows: Sequence[AlertRow], silences: Sequence[Silence]) -> None:
    """Forms below a server's alerts, and what came of the last one."""
    _render_told(server)
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


def render_scenarios(connection: Connection, played: str | None) -> None:
    """Switch of a demo's fleet, and what came of the last try."""
    _render_told(_FLEET)
    st.session_state["scenario"] = played
    st.segmented_control(
        "The demo's fleet plays",
        SCENARIOS,
        format_func=str.title,
        key="scenario",
        help="What you choose is seen from the fleet's next step on, within 5 minutes.",
        on_change=_send_scenario,
        args=(connection,),
    )


def _send_scenario(connection: Connection) -> None:
    chosen = st.session_state["scenario"]
    if chosen is not None:
        words = f"The fleet plays {chosen} from its next step on."
        _request(connection, _FLEET, words, "POST", f"/scenario/{chosen}")


def _render_told(about: str) -> None:
    """What came of the last request about a server, or about the fleet."""
    told = st.session_state.get(_TOLD)
    if told is not None and told[0] == about:
        if told[2] is not None:
            render_problem(told[2])
        else:
            draw("told", words=told[1])


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
    words = f"You take care of the {label} alert."
    popover = st.popover(f"Take care of {label}", icon=":material/check:")
    with popover, st.form(f"acknowledge-{alert['id']}", border=False):
        _who_and_why(alert["id"], "What is being done")
        sent = (connection, server, words, path, alert["id"])
        st.form_submit_button("Take care of it", type="primary", on_click=_send, args=sent)


def _silence(connection: Connection, server: str) -> None:
    st.caption("Its alerts stay on the pages, but are sent to nobody.")
    with st.form("silence", border=False):
        st.selectbox(
            "Metric",
            (_ALL_METRICS, *METRIC_COLUMNS),
            format_func=lambda name: "All metrics" if name == _ALL_METRICS else metric_text(name),
            key="silence-metric",
        )
        st.selectbox("For", list(_SILENCES), format_func=_SILENCES.__getitem__, key="silence-for")
        _who_and_why("silence", "Why")
        st.form_submit_button("Silence it", type="primary", on_click=_send_silence, args=(connection, server))


def _who_and_why(key: str, question: str) -> None:
    st.text_input("Your name", st.session_state.get(_AUTHOR, ""), _MOST_NAME, key=f"author-{key}")
    st.text_input(question, "", _MOST_COMMENT, key=f"comment-{key}")


def _send(
    connection: Connection, server: str, words: str, path: str, key: str, more: Mapping[str, Any] | None = None
) -> None:
    """Send what stands in a form; who it was is not asked again."""
    author = st.session_state[_AUTHOR] = st.session_state[f"author-{key}"]
    body = {"author": author, "comment": st.session_state[f"comment-{key}"], **(more or {})}
    _request(connection, server, words, "POST", path, body)


def _send_silence(connection: Connection, server: str) -> None:
    metric, minutes = st.session_state["silence-metric"], st.session_state["silence-for"]
    more = {
        "server_name": server,
        "duration_minutes": minutes,
        **({} if metric == _ALL_METRICS else {"metric": metric}),
    }
    words = f"{server} is silenced for {_SILENCES[minutes]}."
    _send(connection, server, words, "/alerts/silences", "silence", more)


def _request(connection: Connection, server: str, words: str, method: str, path: str, body: Any = None) -> None:
    problem: Problem | None = connection.change(method, path, body)
    st.session_state[_TOLD] = (server, words, problem)

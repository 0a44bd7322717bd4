"""The view as a page that can be read without the script, which then keeps it up to date in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from consumer.history import POINTS
from consumer.ui.chart import HEIGHT
from consumer.ui.html import Attribute, Element, Node, tag
from consumer.ui.view import Cell, Row, Subject, View

REFRESH_SECONDS: Final = 10
_TILES: Final = (
    ("bytes-rate", "Throughput", None),
    ("objects-rate", "Copied", None),
    ("lag", "Lag, last minute", "lag-longest"),
    ("under-way", "Copies under way", "under-way-more"),
    ("waiting", "Messages waiting", "waiting-more"),
    ("dead-letters", "Dead letters", "dead-letters-more"),
    ("failed", "Failed, 10 minutes", "failed-more"),
)
_TOTALS: Final = (
    ("total-copied", "Objects copied"),
    ("total-bytes", "Bytes copied"),
    ("total-there", "There already"),
    ("total-deleted", "Replicas deleted"),
    ("total-passed", "Ignored or gone"),
    ("total-received", "Messages received"),
    ("total-acked", "Messages done"),
    ("total-retried", "Messages put back"),
)
_CHARTS: Final = (
    ("bytes", "Bytes per second", ()),
    ("objects", "Objects per second", ("copied", "failed")),
    ("lag", "Lag from event to replica", ("longest", "mean")),
)
_COLUMNS: Final = {
    "paused": ("What", "Since", "Reason", "Error", "What to do"),
    "copies": ("Source", "Destination", "Bytes", "Progress", "Time", "Rate"),
    "troubles": ("What", "When", "Reason", "Error", "What to do", "Message"),
    "minutes": ("Minute", "Objects", "Bytes", "Lag, mean", "Lag, longest", "Failed"),
    "workers": ("Worker", "Condition", "Copies under way"),
}
_EMPTY: Final = {
    "copies": "No copy is large enough, or takes long enough, to be shown here.",
    "troubles": "Nothing has failed since the start.",
}


def page(subject: Subject, view: View) -> str:
    """The whole document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{view['state']['word']} · Cross-Cloud Replicator"),
        tag("link", rel="icon", href="/ui/icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="/ui/style.css"),
        tag("script", src="/ui/script.js", defer=True),
        tag("noscript", tag("meta", http_equiv="refresh", content=REFRESH_SECONDS)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the numbers", href="#now", class_="skip"),
        _banner(subject, view),
        tag(
            "main",
            _paused(view),
            _now(view),
            _trends(view),
            _table_section("copies", "Copies under way", view),
            _table_section("troubles", "Recent failures", view),
            _replay_form(subject),
            _workers(subject, view),
            _routes(subject),
            _settings(subject),
        ),
        _footer(),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _banner(subject: Subject, view: View) -> Element:
    state = view["state"]
    return tag(
        "header",
        tag("h1", "Cross-Cloud Replicator"),
        tag(
            "p",
            tag("strong", state["word"], id="state-word"),
            " ",
            tag("span", state["text"], id="state-text"),
            id="state",
            class_=f"state {state['tone']}",
            role="status",
        ),
        tag(
            "p",
            f"Version {subject.version} on {subject.host}, up ",
            _text("up", view),
            f". {_scope(subject)}",
            class_="about",
        ),
        tag(
            "p",
            "As of ",
            tag("time", view["texts"]["updated"], id="updated"),
            ". ",
            tag("span", "", id="live"),
            " ",
            tag("button", "Hold", type="button", id="hold", hidden=True, aria_pressed="false"),
            " ",
            tag("a", "Refresh", href="/ui"),
            class_="about",
        ),
    )


def _scope(subject: Subject) -> str:
    if subject.workers == 1:
        who = "All numbers are of this process"
    else:
        who = f"All numbers are of this process and its {subject.workers} workers together"
    return f"{who}, but for the messages waiting and the dead letters, which are the queue's."


def _paused(view: View) -> Element:
    rows = view["tables"]["paused"]
    return tag(
        "section",
        tag("h2", "Paused", id="paused-title"),
        _table("paused", rows),
        id="paused-section",
        class_="bad",
        aria_labelledby="paused-title",
        hidden=not rows,
    )


def _now(view: View) -> Element:
    tiles = [
        tag(
            "div",
            tag("dt", label),
            tag("dd", _text(name, view), more and tag("small", _text(more, view))),
            id=f"tile-{name}",
            class_=f"tile {view['tones'].get(name, '')}".rstrip(),
        )
        for name, label, more in _TILES
    ]
    ledger = tag(
        "div",
        tag("dt", "Ledger"),
        tag("dd", _text("ledger", view)),
        id="tile-ledger",
        class_=f"tile words {view['tones']['ledger']}".rstrip(),
    )
    totals = [tag("div", tag("dt", label), " ", tag("dd", _text(name, view))) for name, label in _TOTALS]
    return tag(
        "section",
        tag("h2", "Now", id="now-title"),
        tag("dl", *tiles, ledger, class_="tiles"),
        tag("h3", "Since the start", id="totals-title"),
        tag("dl", *totals, class_="totals"),
        tag("p", _text("one-stream", view), class_="about"),
        id="now",
        tabindex="-1",
        aria_labelledby="now-title",
    )


def _trends(view: View) -> Element:
    return tag(
        "section",
        tag("h2", "The last 10 minutes", id="trends-title"),
        tag("div", *(_chart(name, label, legend, view) for name, label, legend in _CHARTS), class_="charts"),
        tag(
            "details",
            tag("summary", "As numbers"),
            _table("minutes", view["tables"]["minutes"], caption="The last 10 minutes, minute by minute"),
        ),
        aria_labelledby="trends-title",
    )


def _chart(name: str, label: str, legend: Sequence[str], view: View) -> Element:
    drawn = view["charts"][name]
    keys = [
        tag("span", word, class_=f"key {which}")
        for word, which in zip(legend, ("first", "second"), strict=False)
    ]
    return tag(
        "figure",
        tag("figcaption", tag("span", label), *keys),
        tag(
            "div",
            tag("span", drawn["top"], id=f"chart-{name}-top"),
            tag("span", "0"),
            class_="scale",
            aria_hidden="true",
        ),
        tag(
            "svg",
            tag("title", drawn["title"], id=f"chart-{name}-title"),
            tag("path", d=drawn["first"], class_="first", id=f"chart-{name}-first"),
            tag("path", d=drawn["second"], class_="second", id=f"chart-{name}-second"),
            role="img",
            aria_labelledby=f"chart-{name}-title",
            viewBox=f"0 0 {POINTS} {HEIGHT:g}",
            preserveAspectRatio="none",
        ),
        tag("div", tag("span", "10 min ago"), tag("span", "now"), class_="span", aria_hidden="true"),
        class_=f"chart {name}",
    )


def _table_section(name: str, title: str, view: View) -> Element:
    rows = view["tables"][name]
    return tag(
        "section",
        tag("h2", title, id=f"{name}-title"),
        tag("p", _EMPTY[name], id=f"{name}-empty", class_="about", hidden=bool(rows)),
        _table(name, rows),
        aria_labelledby=f"{name}-title",
    )


def _table(name: str, rows: Sequence[Row], caption: str = "") -> Element:
    """In a frame that scrolls by itself where the window is narrow, also by the keyboard."""
    columns = _COLUMNS[name]
    label = {"aria_label": caption} if caption else {"aria_labelledby": f"{name}-title"}
    lines = [_row([_cell(cell, title) for cell, title in zip(row, columns, strict=True)]) for row in rows]
    return _frame(columns, lines, body=f"rows-{name}", id=f"table-{name}", hidden=not rows, **label)


def _frame(
    columns: Sequence[str], lines: Sequence[Element], *, body: str | None = None, **more: Attribute
) -> Element:
    # The roles are those that the elements have anyway, until a narrow window shows each row as a card.
    heads = [tag("th", title, scope="col", role="columnheader") for title in columns]
    table = tag(
        "table",
        tag("thead", _row(heads), role="rowgroup"),
        tag("tbody", *lines, id=body, role="rowgroup"),
        role="table",
        aria_label=more.get("aria_label"),
        aria_labelledby=more.get("aria_labelledby"),
    )
    return tag("div", table, class_="table", role="group", tabindex="0", **more)


def _row(cells: Sequence[Element], class_: str | None = None) -> Element:
    return tag("tr", *cells, role="row", class_=class_)


def _cell(cell: Cell, title: str) -> Element:
    name, scope, role = ("th", "row", "rowheader") if cell.get("head") else ("td", None, "cell")
    content: list[Node] = [cell["text"]]
    if cell.get("class") == "name":
        content = [tag("bdi", cell["text"])]
    if "part" in cell:
        content = [tag("progress", value=cell["part"], max=1, aria_label="copied"), " ", cell["text"]]
    if cell.get("more"):
        content += [" ", tag("small", cell["more"])]
    return tag(name, *content, scope=scope, role=role, class_=cell.get("class"), data_title=title)


def _replay_form(subject: Subject) -> Element:
    def entry(name: str, label: str, **more: Any) -> Element:
        return tag(
            "label", tag("span", label), tag("input", name=name, required=True, autocomplete="off", **more)
        )

    token = entry("token", "API token", type="password") if subject.asks_token else None
    return tag(
        "section",
        tag("h2", "Replicate a key again", id="replay-title"),
        tag(
            "p",
            "Asking for what is there already does no harm. ",
            "The token is kept by this page only, until it is closed. " if token else "",
            class_="about",
        ),
        tag(
            "noscript",
            tag(
                "p",
                "The form needs the script; without it: ",
                tag("code", "consumer replicate s3://BUCKET/KEY"),
            ),
        ),
        tag(
            "form",
            entry(
                "bucket", "S3 bucket", minlength=3, maxlength=255, spellcheck="false", autocapitalize="off"
            ),
            entry("key", "Key", maxlength=1024, spellcheck="false", autocapitalize="off"),
            token,
            tag("button", "Replicate", type="submit", disabled=True),
            id="replay",
            aria_labelledby="replay-title",
        ),
        tag("p", "", id="replay-answer", role="status"),
        aria_labelledby="replay-title",
    )


def _workers(subject: Subject, view: View) -> Node:
    if subject.workers == 1:
        return None
    return tag(
        "section",
        tag("h2", "Workers", id="workers-title"),
        _table("workers", view["tables"]["workers"]),
        aria_labelledby="workers-title",
    )


def _routes(subject: Subject) -> Element:
    columns = ("From", "To", "Rules")
    rows = [
        _row([_cell(cell, title) for cell, title in zip(_fixed(*route), columns, strict=True)])
        for route in subject.routes
    ]
    return tag(
        "section",
        tag("h2", "Routes", id="routes-title"),
        _frame(columns, rows, aria_labelledby="routes-title"),
        aria_labelledby="routes-title",
    )


def _settings(subject: Subject) -> Element:
    """What was set; the rest folded away."""
    columns = ("Variable", "Value")

    def table(default: bool, label: str) -> Element:
        rows = [
            _row([_cell(cell, title) for cell, title in zip(_fixed(name, value), columns, strict=True)])
            for name, value, as_is in subject.settings
            if as_is is default
        ]
        return _frame(columns, rows, aria_label=label)

    return tag(
        "section",
        tag("h2", "Configuration", id="settings-title"),
        tag("p", "What differs from the defaults. Of secrets, only whether they are set.", class_="about"),
        table(False, "What differs from the defaults"),
        tag("details", tag("summary", "Defaults"), table(True, "Defaults")),
        aria_labelledby="settings-title",
    )


def _fixed(head: str, *rest: str) -> Row:
    """A row that stays as it is until the program starts again."""
    return [
        {"text": head, "class": "name", "head": True},
        *({"text": text, "class": "name"} for text in rest),
    ]


def _footer() -> Element:
    links: Mapping[str, str] = {
        "/metrics": "Metrics",
        "/readyz": "Readiness",
        "/healthz": "Liveness",
        "/docs": "HTTP API",
    }
    items = [tag("li", tag("a", text, href=path)) for path, text in links.items()]
    return tag("footer", tag("nav", tag("ul", *items), aria_label="Elsewhere"))


def _text(name: str, view: View) -> Element:
    return tag("span", view["texts"][name], id=f"text-{name}")

"""What the status page is of, as the settings have it: fit to be shown, without a secret."""

from __future__ import annotations

import socket

from consumer import __version__
from consumer.api_port import Service
from consumer.history import History
from consumer.route_settings import routes_of
from consumer.routes import Route
from consumer.settings import Settings
from consumer.ui.view import Subject


def subject_of(settings: Settings, service: Service, history: History) -> Subject:
    """The pod with these settings."""
    fields = Settings.model_fields
    return Subject(
        service,
        history,
        version=__version__,
        host=socket.gethostname(),
        settings=[
            (name, _in_words(value), getattr(settings, name.lower()) == fields[name.lower()].default)
            for name, value in settings.public().items()
        ],
        routes=[(str(route.source), str(route.destination), _rules(route)) for route in routes_of(settings)],
        workers=settings.workers,
        asks_token=bool(settings.api_token),
        has_ledger=settings.ledger_url is not None,
    )


def _rules(route: Route) -> str:
    policy = route.policy
    rules = [
        "deletes too" if policy.replicate_deletes else "no deletes",
        *(["both ways"] if policy.both_ways else []),
        *([f"only {', '.join(route.include)}"] if route.include else []),
        *([f"without {', '.join(route.exclude)}"] if route.exclude else []),
        *([route.storage_class] if route.storage_class else []),
        f"foreign: {policy.on_foreign}",
        f"missing: {policy.on_missing}",
    ]
    return " · ".join(rules)


def _in_words(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "not set" if value in (None, "") else str(value)

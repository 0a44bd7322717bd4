"""`consumer routes`: the routes as a table, and where single objects go by them. Nothing is asked of any store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from consumer import process
from consumer.explain import Explanation, Verdict, explain
from consumer.model import ObjectRef
from consumer.process import Exit
from consumer.route_settings import routes_of
from consumer.routes import Route
from consumer.uris import parse_object

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Where objects go, by the configuration alone.")

AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def parse_uris(uris: Sequence[str]) -> list[ObjectRef]:
    """The objects that a command is given. Raises typer's BadParameter, which exits 2."""
    try:
        return [parse_object(uri) for uri in uris]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command("list")
def list_routes(as_json: AsJson = False) -> None:
    """All routes in order: the first that takes an object is its own."""
    routes = routes_of(process.configure(frozenset(), quiet=True))
    if as_json:
        _print_json([_plain(number, route) for number, route in enumerate(routes, 1)])
    else:
        print_routes(routes)
    process.leave(Exit.OK)


@app.command("explain")
def explain_uris(
    uris: Annotated[
        list[str], typer.Argument(metavar="URI", help="Objects: s3://BUCKET/KEY or gs://BUCKET/KEY.")
    ],
    as_json: AsJson = False,
) -> None:
    """Where each object goes and why: the route that takes it, and why those before it do not.

    Exits 1 when one of them goes nowhere.
    """
    refs = parse_uris(uris)
    routes = routes_of(process.configure(frozenset(), quiet=True))
    found = [explain(routes, ref) for ref in refs]
    if as_json:
        _print_json([_plain_explanation(one) for one in found])
    else:
        _print_explanations(found)
    process.leave(Exit.OK if all(one.destination for one in found) else Exit.FAILED)


# --- In JSON ---


def _plain(number: int, route: Route) -> dict[str, object]:
    policy = route.policy
    return {
        "route": number,
        "from": str(route.source),
        "to": str(route.destination),
        "include": list(route.include),
        "exclude": list(route.exclude),
        "storage_class": route.storage_class,
        "replicate_deletes": policy.replicate_deletes,
        "on_foreign_object": policy.on_foreign,
        "on_missing_object": policy.on_missing,
        "both_ways": policy.both_ways,
    }


def _plain_explanation(found: Explanation) -> dict[str, object]:
    taken = found.taken
    return {
        "source": found.source.uri,
        "destination": found.destination.uri if found.destination else None,
        "why": found.why,
        "route": _plain(taken.number, taken.route) if taken else None,
        "passed_over": [
            {
                "route": one.number,
                "from": str(one.route.source),
                "to": str(one.route.destination),
                "why": one.why,
            }
            for one in found.passed_over
        ],
    }


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


# --- As tables ---


def print_routes(routes: Sequence[Route]) -> None:
    """The routes as a table."""
    from rich.text import Text

    table = _table("Routes", "", "from", "to", "takes", "how")
    for number, route in enumerate(routes, 1):
        cells = (str(number), str(route.source), str(route.destination), _selection(route), _policy(route))
        table.add_row(*map(Text, cells))
    _print(table)


def _print_explanations(found: Sequence[Explanation]) -> None:
    from rich.text import Text

    table = _table("Where it goes", "object", "becomes", "why", "how")
    for one in found:
        becomes = Text(one.destination.uri) if one.destination else Text("nowhere", style="bold red")
        why = [_reason(verdict) for verdict in one.passed_over]
        why.append(f"route {one.taken.number} takes it: {one.why}" if one.taken else one.why)
        how = _policy(one.taken.route) if one.taken else ""
        table.add_row(Text(one.source.uri), becomes, Text("\n".join(why)), Text(how))
    _print(table)


def _reason(verdict: Verdict) -> str:
    return f"route {verdict.number} does not: {verdict.why}"


def _selection(route: Route) -> str:
    lines = []
    if route.include:
        lines.append(f"include {' '.join(route.include)}")
    if route.exclude:
        lines.append(f"exclude {' '.join(route.exclude)}")
    return "\n".join(lines) or "everything"


def _policy(route: Route) -> str:
    policy = route.policy
    return "\n".join(
        [
            *(["both ways"] if policy.both_ways else []),
            *([route.storage_class] if route.storage_class else []),
            f"deletes: {'yes' if policy.replicate_deletes else 'no'}",
            f"foreign: {policy.on_foreign}",
            f"missing: {policy.on_missing}",
        ]
    )


def _table(title: str, *names: str) -> Table:
    from rich.table import Column, Table

    # Folded, never cut: in a narrow terminal a URI has to stay whole.
    columns = [Column(name, overflow="fold") for name in names]
    return Table(*columns, title=title, title_justify="left", show_lines=True)


def _print(table: Table) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(table)

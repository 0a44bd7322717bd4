"""Routes: which takes an object and what becomes of it, which lists are refused in which words, what is explained."""

from __future__ import annotations

import re

import pytest

from consumer.decide import Policy
from consumer.errors import Reason, ReplicatorError
from consumer.explain import explain
from consumer.model import ObjectRef, Store
from consumer.names import TEMPORARY_PREFIX
from consumer.route_rules import problems, shared_names, with_pairs
from consumer.routes import ANY_BUCKET, Place, Route, find
from consumer.uris import parse_object, parse_place


def route(source: str, destination: str, *, include: str = "", exclude: str = "") -> Route:
    return Route(
        parse_place(source), parse_place(destination), tuple(include.split()), tuple(exclude.split())
    )


ANY = Route(Place(Store.S3, ANY_BUCKET), Place(Store.GCS, "rest", "all/"))
A_TO_B = route("s3://aaa/", "gs://bbb/")
B_TO_A = route("gs://bbb/", "s3://aaa/")


# --- Which takes an object ---


@pytest.mark.parametrize(
    ("uri", "taken"),
    [
        ("s3://logs/in/a.csv", True),
        ("s3://logs/in/deep/er/a.csv", True),
        ("s3://logs/in/.csv", True),
        ("s3://logs/in/a.CSV", False),
        ("s3://logs/in/tmp/a.csv", False),
        ("s3://logs/a.csv", False),
        ("s3://logs2/in/a.csv", False),
        ("gs://logs/in/a.csv", False),
    ],
)
def test_a_route_takes_what_its_place_holds_and_its_globs_let_through(uri: str, taken: bool) -> None:
    one = route("s3://logs/in/", "gs://archive/", include="*.csv *.parquet", exclude="in/tmp/* *~")
    assert one.takes(parse_object(uri)) is taken


def test_the_sources_prefix_gives_way_to_the_destinations() -> None:
    one = route("s3://logs/in/", "gs://archive/2026-")
    assert one.target(parse_object("s3://logs/in/x/y")) == ObjectRef("archive", "2026-x/y", Store.GCS)


def test_a_name_that_the_destination_forbids_is_refused() -> None:
    with pytest.raises(ReplicatorError) as caught:
        route("s3://logs/in/", "gs://archive/").target(parse_object("s3://logs/in/.."))
    assert caught.value.reason is Reason.NAME_NOT_ALLOWED


def test_the_first_that_takes_an_object_is_its_own() -> None:
    csv, rest = route("s3://logs/", "gs://one/", include="*.csv"), route("s3://logs/", "gs://two/")
    assert find([csv, rest], parse_object("s3://logs/a.csv")) is csv
    assert find([csv, rest], parse_object("s3://logs/a.txt")) is rest
    assert find([csv, rest], parse_object("s3://other/a.csv")) is None


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["last", "first"])
def test_what_a_named_buckets_routes_leave_goes_to_no_route_from_any_bucket(order: slice) -> None:
    routes = [route("s3://logs/", "gs://one/", exclude="tmp/*"), route("gs://new/", "s3://landing/"), ANY][
        order
    ]
    assert find(routes, parse_object("s3://logs/tmp/x")) is None
    assert find(routes, parse_object("s3://landing/x")) is None
    assert find(routes, parse_object("s3://other/tmp/x")) is ANY
    assert find(routes, parse_object("gs://other/tmp/x")) is None


# --- Which lists can work ---

FINE = {
    "one": [A_TO_B],
    "a pair": [A_TO_B, B_TO_A],
    "a pair with prefixes": [route("s3://aaa/x/", "gs://bbb/y/z/"), route("gs://bbb/y/z/", "s3://aaa/x/")],
    "a pair that leaves out": [
        route("s3://aaa/x/", "gs://bbb/y/", include="*.csv", exclude="x/tmp/*"),
        route("gs://bbb/y/", "s3://aaa/x/", include="*.csv", exclude="y/tmp/*"),
    ],
    "a pair before a wider route": [
        route("s3://aaa/x/", "gs://bbb/x/"),
        route("gs://bbb/x/", "s3://aaa/x/"),
        A_TO_B,
    ],
    "a narrower pair before a pair": [
        *(route("s3://aaa/x/", "gs://bbb/x/"), route("gs://bbb/x/", "s3://aaa/x/")),
        *(A_TO_B, B_TO_A),
    ],
    "two pairs by globs": [
        *(route("s3://aaa/", "gs://bbb/", include="*.c"), route("s3://aaa/", "gs://bbb/", exclude="*.c")),
        *(route("gs://bbb/", "s3://aaa/", include="*.c"), route("gs://bbb/", "s3://aaa/", exclude="*.c")),
    ],
    "another class for a part": [route("s3://aaa/logs/", "gs://bbb/logs/"), A_TO_B],
    "two buckets into one, apart": [route("s3://aaa/", "gs://bbb/a/"), route("s3://ccc/", "gs://bbb/c/")],
    "a name that is only longer": [route("s3://aaa/", "gs://bbb/x/"), route("s3://ccc/", "gs://bbb/y")],
    "kept apart by what comes before": [
        *(route("s3://aaa/old/", "gs://ccc/"), route("s3://aaa/tmp/", "gs://bbb/old/"), A_TO_B),
    ],
    "kept apart by exclude": [
        route("s3://aaa/", "gs://bbb/", exclude="c/*"),
        route("s3://ccc/", "gs://bbb/c/"),
    ],
    "kept apart by include": [
        route("s3://aaa/", "gs://bbb/", include="d/* e"),
        route("s3://ccc/", "gs://bbb/c/"),
    ],
    "a chain": [A_TO_B, route("gs://bbb/", "s3://ccc/"), route("s3://ccc/", "gs://ddd/")],
    "within one bucket": [route("s3://aaa/in/", "s3://aaa/out/")],
    "within one bucket by exclude": [route("s3://aaa/", "s3://aaa/out/", exclude="out/*")],
}


@pytest.mark.parametrize("name", FINE)
def test_lists_that_can_work_are_accepted(name: str) -> None:
    assert problems(FINE[name]) == []


OPPOSITES = r'\{"from": "s3://aaa/p", "to": "gs://bbb/q"\} and \{"from": "gs://bbb/q", "to": "s3://aaa/p"\}'
NEVER = "can never take an object"
REFUSED = {
    "after a wider one": ([A_TO_B, route("s3://aaa/x/", "gs://ccc/")], [f"entry 2 .* {NEVER}: entry 1 "]),
    "after one with the same glob": (
        [route("s3://aaa/", "gs://bbb/", include="*.c"), route("s3://aaa/x/", "gs://ccc/", include="*.c")],
        [f"entry 2 .* {NEVER}: entry 1 "],
    ),
    "after a glob that takes all": (
        [route("s3://aaa/", "gs://bbb/", include="x/*"), route("s3://aaa/x/y/", "gs://ccc/", include="*.c")],
        [f"entry 2 .* {NEVER}: entry 1 "],
    ),
    "globs beside the prefix": (
        [route("s3://aaa/x/", "gs://bbb/", include="y/*")],
        [f"entry 1 .* {NEVER}: its globs leave out every key that begins with 'x/'"],
    ),
    "all left out": ([route("s3://aaa/x/", "gs://bbb/", exclude="x/*")], [f"entry 1 .* {NEVER}: its globs"]),
    "the same twice": ([A_TO_B, A_TO_B], ["entry 2 .* contradicts entry 1 "]),
    "two ways at once": (
        [A_TO_B, route("s3://aaa", "gs://ccc")],
        ["entry 2 .* contradicts entry 1 .* one way only"],
    ),
    "two buckets into one": (
        [A_TO_B, route("s3://ccc/x/", "gs://bbb/y/")],
        [
            "entry 1 .* and entry 2 .*: s3://aaa/y/NAME and s3://ccc/x/NAME would both become gs://bbb/y/NAME",
        ],
    ),
    "two stores into one": ([route("gs://aaa/", "gs://bbb/"), A_TO_B], ["may write the same names"]),
    "two prefixes into one": (
        [route("s3://aaa/x/", "gs://bbb/"), route("s3://aaa/y/", "gs://bbb/")],
        ["s3://aaa/x/NAME and s3://aaa/y/NAME would both become gs://bbb/NAME"],
    ),
    "its own destination": ([route("s3://aaa/", "s3://aaa/x/")], ["entry 1 .* would read what it writes"]),
    "its own source": ([route("s3://aaa/x/", "s3://aaa/")], ["entry 1 .* would read what it writes"]),
    "another way back": (
        [route("s3://aaa/p", "gs://bbb/q"), route("gs://bbb/q", "s3://aaa/")],
        [
            rf"entry 1 .* and entry 2 .* no mirror images.*exact opposites: {OPPOSITES}, before",
        ],
    ),
    "a way back for a part": ([A_TO_B, route("gs://bbb/x/", "s3://aaa/x/")], ["lead into one another"]),
    "a loop of three": (
        [A_TO_B, route("gs://bbb/x/", "s3://ccc/"), route("s3://ccc/y/", "s3://aaa/z/")],
        ["entry 1 .*, entry 2 .*, entry 3 .* form a loop"],
    ),
    "a pair of unlike globs": (
        [route("s3://aaa/", "gs://bbb/", include="*.c"), B_TO_A],
        ["entry 1 .* and entry 2 .* are a two-way pair, but do not select the same objects"],
    ),
    "a glob that means another thing on the other side": (
        [
            route("s3://aaa/x/", "gs://bbb/y/", include="*x*"),
            route("gs://bbb/y/", "s3://aaa/x/", include="*x*"),
        ],
        ["are a two-way pair, but do not select the same objects"],
    ),
    "a pair whose way back is cut": (
        [route("gs://bbb/x/", "s3://ccc/"), A_TO_B, B_TO_A],
        [
            "entry 1 .* takes a part of what entry 2 .* brings, so that entry 3 .*, the way back, does not get it"
        ],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_lists_that_cannot_work_are_refused_with_the_reason(name: str) -> None:
    routes, said = REFUSED[name]
    found = problems(routes)
    assert len(found) == len(said)
    for problem, pattern in zip(found, said, strict=True):
        assert re.search(pattern, problem), problem


def test_only_the_two_routes_of_a_pair_lead_both_ways() -> None:
    other = route("s3://ccc/", "gs://ddd/")
    assert [one.policy for one in with_pairs([A_TO_B, other, B_TO_A])] == [
        Policy(both_ways=True),
        Policy(),
        Policy(both_ways=True),
    ]


def test_names_shared_with_the_bucket_for_the_rest_are_told() -> None:
    into = route("s3://ccc/", "gs://rest/all/aaa/")
    assert shared_names([A_TO_B, into], [ANY]) == [f"entry 2 ({into})"]
    assert problems([A_TO_B, into], [ANY]) == []


# --- What is explained ---

LISTED = [
    route("s3://logs/2026/", "gs://archive/", include="*.parquet *.csv", exclude="2026/tmp/*"),
    route("gs://logs/", "s3://elsewhere/"),
    route("s3://logs/20", "gs://older/x"),
    ANY,
]


@pytest.mark.parametrize(
    ("uri", "number", "becomes", "why", "others"),
    [
        (
            *("s3://logs/2026/a.csv", 1, "gs://archive/a.csv"),
            "the key begins with '2026/', include '*.csv' matches, no exclude matches",
            [],
        ),
        (
            *("s3://logs/2026/a.txt", 3, "gs://older/x26/a.txt", "the key begins with '20'"),
            ["not included by '*.parquet' '*.csv'", "it reads gs://logs"],
        ),
        (
            *("s3://logs/2026/tmp/a.csv", 3, "gs://older/x26/tmp/a.csv", "the key begins with '20'"),
            ["excluded by '2026/tmp/*'", "it reads gs://logs"],
        ),
        (
            *("s3://logs/1999/a", None, None, "no route takes it: ignored"),
            [
                *(
                    "the key does not begin with '2026/'",
                    "it reads gs://logs",
                    "the key does not begin with '20'",
                ),
                "it takes from no bucket that another route names",
            ],
        ),
        ("gs://logs/x", 2, "s3://elsewhere/x", "it takes every key", ["it reads s3://logs"]),
        (
            *("s3://other/x", 4, "gs://rest/all/x", "it takes every key"),
            ["it reads s3://logs", "it reads gs://logs", "it reads s3://logs"],
        ),
        (
            *("gs://other/x", None, None, "no route reads gs://other: refused"),
            ["it reads s3://logs", "it reads gs://logs", "it reads s3://logs", "it reads s3://*"],
        ),
        (
            *(f"s3://logs/{TEMPORARY_PREFIX}x", None, None),
            *(
                f"it lies below {TEMPORARY_PREFIX}, where the program keeps its temporary objects: ignored",
                [],
            ),
        ),
    ],
)
def test_an_objects_way_is_told_with_the_reason(
    uri: str, number: int | None, becomes: str | None, why: str, others: list[str]
) -> None:
    ref = parse_object(uri)
    found = explain(LISTED, ref)
    assert found.why == why
    assert [verdict.why for verdict in found.passed_over] == others
    assert (found.taken.number if found.taken else None) == number
    assert (found.destination.uri if found.destination else None) == becomes
    assert find(LISTED, ref) is (found.taken.route if found.taken else None) or TEMPORARY_PREFIX in uri


def test_a_name_that_may_not_be_is_explained_as_such() -> None:
    found = explain([A_TO_B], parse_object("s3://aaa/.."))
    assert found.destination is None
    assert found.taken is not None
    assert found.why.startswith("refused: ")


# --- URIs ---


@pytest.mark.parametrize("key", ["k", "/", "a//b", "a b", "ü?#%25", "a\nb", "*"])
@pytest.mark.parametrize("store", Store)
def test_a_uri_is_taken_as_it_stands(store: Store, key: str) -> None:
    ref = ObjectRef("bucket", key, store)
    assert parse_object(ref.uri) == ref
    assert parse_place(ref.uri) == Place(store, "bucket", key)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "bucket/key",
        "s3:/bucket/key",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "gs://Bucket/k",
        "az://b/k",
        "s3://ab/k",
    ],
)
def test_what_is_no_uri_of_an_object_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"is not of the form (s3|gs)://BUCKET/KEY"):
        parse_object(uri)


def test_legacy_buckets_of_s3_are_believed() -> None:
    assert parse_object("s3://Old_Bucket/k") == ObjectRef("Old_Bucket", "k")

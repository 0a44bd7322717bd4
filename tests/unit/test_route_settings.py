"""ROUTES and ROUTES_FILE: what they accept, what they refuse, in which words; and which routes come of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from consumer.decide import ForeignRule, MissingRule, Policy
from consumer.errors import ConfigurationError
from consumer.model import ObjectRef, Store
from consumer.names import TEMPORARY_PREFIX
from consumer.route_entries import STORAGE_CLASSES, RouteEntry
from consumer.route_settings import routes_of
from consumer.routes import ANY_BUCKET, Place, Route, find
from consumer.settings import Settings, load_settings

ENTRY = {"from": "s3://source/logs/", "to": "gs://archive/"}


def load(directory: Path, **env: str) -> tuple[Settings, list[str]]:
    return load_settings(env={"AWS_REGION": "eu-central-1"} | env, directory=directory)


def routes(directory: Path, *entries: object, **env: str) -> tuple[Route, ...]:
    return routes_of(load(directory, ROUTES=json.dumps(entries), **env)[0])


def problems(directory: Path, *entries: object, **env: str) -> list[str]:
    given = {"ROUTES": json.dumps(entries)} if entries else {}
    with pytest.raises(ConfigurationError) as caught:
        load(directory, **given, **env)
    return caught.value.problems


# --- Which routes come of it ---


def test_the_bucket_alone_is_one_route_from_any_bucket(tmp_path: Path) -> None:
    settings, _ = load(tmp_path, GCS_BUCKET_NAME="archive", GCS_KEY_PREFIX="in/", REPLICATE_DELETES="true")
    assert routes_of(settings) == (
        Route(
            Place(Store.S3, ANY_BUCKET),
            Place(Store.GCS, "archive", "in/"),
            policy=Policy(replicate_deletes=True),
        ),
    )


def test_the_bucket_with_source_buckets_is_one_route_from_each(tmp_path: Path) -> None:
    settings, warnings = load(tmp_path, GCS_BUCKET_NAME="archive", SOURCE_BUCKETS="one,two")
    assert [str(route) for route in routes_of(settings)] == [
        "s3://one/ → gs://archive/",
        "s3://two/ → gs://archive/",
    ]
    assert warnings == []


def test_routes_need_no_other_destination(tmp_path: Path) -> None:
    assert routes(tmp_path, ENTRY) == (
        Route(Place(Store.S3, "source", "logs/"), Place(Store.GCS, "archive")),
    )


def test_what_an_entry_does_not_say_is_as_the_settings_for_all_say(tmp_path: Path) -> None:
    every = {
        "include": ["*.parquet"],
        "exclude": ["logs/tmp/*", "*~"],
        "storage_class": "nearline",
        "replicate_deletes": False,
        "on_foreign_object": "refuse",
        "on_missing_object": "ack",
    }
    for_all = {"REPLICATE_DELETES": "true", "ON_FOREIGN_OBJECT": "overwrite", "ON_MISSING_OBJECT": "dlq"}
    full, bare = routes(
        tmp_path, ENTRY | every, {"from": "gs://a-bucket", "to": "s3://b-bucket/x"}, **for_all
    )
    assert full == Route(
        Place(Store.S3, "source", "logs/"),
        Place(Store.GCS, "archive"),
        ("*.parquet",),
        ("logs/tmp/*", "*~"),
        "NEARLINE",
        Policy(),
    )
    assert bare == Route(
        Place(Store.GCS, "a-bucket"),
        Place(Store.S3, "b-bucket", "x"),
        policy=Policy(True, MissingRule.DLQ, ForeignRule.OVERWRITE),
    )


def test_the_two_directions_of_a_pair_are_known_as_such(tmp_path: Path) -> None:
    back = {"from": ENTRY["to"], "to": ENTRY["from"], "storage_class": "STANDARD_IA"}
    other = {"from": "s3://other", "to": "gs://elsewhere"}
    assert [route.policy.both_ways for route in routes(tmp_path, ENTRY, other, back)] == [True, False, True]


def test_the_bucket_beside_routes_is_for_buckets_that_none_of_them_names(tmp_path: Path) -> None:
    back = {"from": "gs://incoming", "to": "s3://landing/"}
    found = routes(tmp_path, ENTRY, back, GCS_BUCKET_NAME="rest", GCS_KEY_PREFIX="all/")
    assert str(found[-1]) == "s3://*/ → gs://rest/all/"
    assert find(found, ObjectRef("any-other", "k")) is found[-1]
    # What a named bucket's routes leave out, and what a route wrote, does not fall through.
    assert find(found, ObjectRef("source", "tmp/k")) is None
    assert find(found, ObjectRef("landing", "k")) is None


def test_the_bucket_beside_routes_and_source_buckets_is_for_the_allowed_that_no_route_reads(
    tmp_path: Path,
) -> None:
    found = routes(tmp_path, ENTRY, SOURCE_BUCKETS="one,source,two", GCS_BUCKET_NAME="rest")
    assert [str(route) for route in found[1:]] == ["s3://one/ → gs://rest/", "s3://two/ → gs://rest/"]


def test_a_way_back_beside_other_buckets_into_the_same_names_is_refused(tmp_path: Path) -> None:
    """Objects of the one bucket would travel on into the other, over its own."""
    back = {"from": "gs://twin", "to": "s3://one"}
    with pytest.raises(ConfigurationError) as caught:
        routes(tmp_path, back, SOURCE_BUCKETS="one,two", GCS_BUCKET_NAME="twin")
    (problem,) = caught.value.problems
    assert problem.startswith("GCS_BUCKET_NAME: gs://twin/ leads back to s3://one/ by entry 1 of ROUTES")
    pair = routes(tmp_path, back, SOURCE_BUCKETS="one", GCS_BUCKET_NAME="twin")
    assert [route.policy.both_ways for route in pair] == [True, True]


# --- Where they are read from ---

FILES = {
    "routes.json": '[{"from": "s3://source/logs/", "to": "gs://archive/", "include": ["*.parquet"]}]',
    "mapping.json": (
        '\ufeff{"routes": [{"from": "s3://source/logs/", "to": "gs://archive/", "include": ["*.parquet"]}]}'
    ),
    "routes.toml": '[[routes]]\nfrom = "s3://source/logs/"\nto = "gs://archive/"\ninclude = ["*.parquet"]\n',
    "routes.yaml": "- from: s3://source/logs/\n  to: gs://archive/\n  include: ['*.parquet']\n",
    "routes.YML": "routes:\n- from: s3://source/logs/\n  to: gs://archive/\n  include:\n  - '*.parquet'\n",
    "anchors.yaml": (
        "- &first\n  from: s3://source/logs/\n  to: gs://archive/\n  include: ['*.parquet']\n"
        "- {<<: *first, from: s3://source/other/, to: gs://others}\n"
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_by_its_suffix(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(FILES[name])
    settings, _ = load(tmp_path, ROUTES_FILE=str(file))
    first = routes_of(settings)[0]
    assert (str(first), first.include) == ("s3://source/logs/ → gs://archive/", ("*.parquet",))
    public = settings.public()
    assert public["ROUTES_FILE"] == str(file)
    assert public["ROUTES"][0] == "s3://source/logs/ → gs://archive/ (include *.parquet)"  # type: ignore[index]


BROKEN = {
    "lines.yaml": ("- from: s3://a\n  to: [", "must be YAML: "),
    "twice.yaml": ("- from: s3://abc\n  to: gs://one\n  to: gs://two\n", "must not name 'to' twice"),
    "python.yaml": ("- !!python/object/apply:os.getcwd []", "must be YAML: "),
    "one.yaml": ("from: s3://abc\nto: gs://abc\n", "must hold a list of routes"),
    "empty.yaml": ("", "must hold a list of routes"),
    "nothing.yaml": ("routes: []", "must hold one route or more"),
    "lines.toml": ("[[routes]]\nfrom =", "must be TOML: "),
    "lines.json": ("[{]", "must be JSON, and a path belongs in ROUTES_FILE: "),
    "deep.json": ("[" * 100_000, "must be JSON"),
    "twice.json": ('[{"from": "s3://abc", "from": "s3://abd"}]', "must not name 'from' twice"),
    "routes.txt": ("[]", "must be the path of a .yaml, .yml, .toml or .json file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_understood_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    text, said = BROKEN[name]
    file = tmp_path / name
    file.write_text(text)
    (problem,) = problems(tmp_path, ROUTES_FILE=str(file))
    assert problem.startswith(f"ROUTES_FILE: {said}")
    assert "\n" not in problem


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.toml", tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    (problem,) = problems(tmp_path, ROUTES_FILE=str(missing))
    assert problem == f"ROUTES_FILE: the file '{missing}' cannot be read: No such file or directory"
    assert problems(tmp_path, ROUTES_FILE=str(binary)) == [
        f"ROUTES_FILE: the file '{binary}' is not text in UTF-8"
    ]


def test_routes_are_in_one_place(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    file.write_text(FILES["routes.json"])
    (problem,) = problems(tmp_path, ENTRY, ROUTES_FILE=str(file))
    assert problem.startswith("ROUTES_FILE: must not be set together with ROUTES")


def test_without_routes_the_bucket_is_required(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path)
    assert problem.startswith("GCS_BUCKET_NAME: required but not set: ")


# --- What one entry must look like ---

WRONG = [
    (
        {"from": "source"},
        "from: must be of the form s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; it is 'source'",
    ),
    ({"from": "S3://source"}, "from: must be of the form s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
    ({"from": "s3://"}, "from: must name a bucket after s3://: "),
    ({"from": "s3://10.0.0.1/x"}, "from: must name a bucket after s3://: "),
    (
        {"from": "s3://*/x"},
        "from: must name one bucket: for all S3 buckets that no entry names, set GCS_BUCKET_NAME",
    ),
    ({"from": "s3://source/*.csv"}, "from: must end in a prefix, which is taken literally: put patterns"),
    ({"from": f"s3://source/{TEMPORARY_PREFIX}"}, f"from: must not begin with {TEMPORARY_PREFIX}"),
    ({"from": "s3://source/" + "ö" * 501}, "from: must be at most 1000 bytes long"),
    ({"from": 3}, "from: must be text; it is '3'"),
    ({"to": "gs://Archive"}, "to: must name a bucket after gs://: "),
    ({"to": "https://archive"}, "to: must be of the form s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
    ({"to": f"gs://archive/{TEMPORARY_PREFIX}x"}, f"to: must not begin with {TEMPORARY_PREFIX}"),
    ({"to": "gs://archive/a\nb"}, "to: must not hold a line break"),
    (
        {"storage_class": "GLACIER"},
        "storage_class: must be one that gs:// has: STANDARD, NEARLINE, COLDLINE, ARCHIVE; ",
    ),
    (
        {"to": "s3://there", "storage_class": "NEARLINE"},
        "storage_class: must be one that s3:// has: STANDARD, STANDARD_IA",
    ),
    ({"include": "*.csv"}, """include: must be a list, such as ["*.parquet"]; it is '*.csv'"""),
    ({"exclude": [""]}, "exclude: must hold no empty glob"),
    ({"include": [1]}, "include: must be text; it is '1'"),
    ({"replicate_deletes": "perhaps"}, "replicate_deletes: must be true or false; it is 'perhaps'"),
    ({"on_foreign_object": "adopt"}, "on_foreign_object: must be 'refuse' or 'overwrite'; it is 'adopt'"),
    ({"on_missing_object": "delete"}, "on_missing_object: must be 'ack', 'retry' or 'dlq'; it is 'delete'"),
    ({"storageclass": "NEARLINE"}, "'storageclass' is unknown; did you mean storage_class?"),
    ({"zzz": 1}, "'zzz' is unknown; known are from, to, include"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_what_is_wrong_with_an_entry_is_said_with_its_number_and_name(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    good = {"from": "s3://first", "to": "gs://first-too"}
    (problem,) = problems(tmp_path, good, ENTRY | change)
    assert problem.startswith(f"ROUTES: entry 2: {said}")
    assert "\n" not in problem


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, {"form": "s3://a-b"}, "x", {"from": "s3://a", "to": "x"}, CONCURRENCY="0")
    begins = [
        "ROUTES: entry 1: from: required but not set: ",
        "ROUTES: entry 1: to: required but not set: ",
        "ROUTES: entry 1: 'form' is unknown; did you mean from?",
        'ROUTES: entry 2: must be an object, such as {"from": ',
        "ROUTES: entry 3: from: must name a bucket after s3://: ",
        "ROUTES: entry 3: to: must be of the form ",
        "CONCURRENCY: must be ",
    ]
    assert [problem[: len(begin)] for problem, begin in zip(found, begins, strict=True)] == begins


@pytest.mark.parametrize("prefix", ["", "/", "//x", "a b", "ö/", "100%/", "q?x", "[x]/", "a" * 1000])
def test_prefixes_are_taken_as_they_stand(tmp_path: Path, prefix: str) -> None:
    (route,) = routes(tmp_path, {"from": f"s3://source/{prefix}", "to": f"gs://archive/{prefix}"})
    assert (route.source.prefix, route.destination.prefix) == (prefix, prefix)


# --- What they must be together ---


def test_routes_that_cannot_work_together_are_refused_by_the_variable_that_holds_them(tmp_path: Path) -> None:
    found = problems(tmp_path, ENTRY, ENTRY, {"from": "s3://other", "to": "gs://archive/x"})
    assert [problem[:40] for problem in found] == [
        "ROUTES: entry 2 (s3://source/logs/ → gs:"[:40],
        "ROUTES: entry 1 (s3://source/logs/ → gs:"[:40],
    ]
    file = tmp_path / "routes.json"
    file.write_text(json.dumps([ENTRY, ENTRY]))
    (problem,) = problems(tmp_path, ROUTES_FILE=str(file))
    assert problem.startswith(
        "ROUTES_FILE: entry 2 (s3://source/logs/ → gs://archive/) contradicts entry 1 ("
    )


def test_a_route_that_reads_what_source_buckets_does_not_allow_contradicts_it(tmp_path: Path) -> None:
    back = {"from": "gs://source-too", "to": "s3://landing"}
    (problem,) = problems(tmp_path, back, ENTRY, SOURCE_BUCKETS="other")
    assert problem.startswith("ROUTES: entry 2 reads s3://source, which SOURCE_BUCKETS does not allow")


def test_an_allowed_bucket_that_no_route_reads_is_pointed_out(tmp_path: Path) -> None:
    _, warnings = load(tmp_path, ROUTES=json.dumps([ENTRY]), SOURCE_BUCKETS="source,other")
    assert [warning.partition(";")[0] for warning in warnings] == [
        "SOURCE_BUCKETS: other is read by no route"
    ]


def test_a_bucket_for_the_rest_that_a_route_writes_to_as_well_is_pointed_out(tmp_path: Path) -> None:
    _, warnings = load(tmp_path, ROUTES=json.dumps([ENTRY]), GCS_BUCKET_NAME="archive")
    (warning,) = warnings
    assert warning.startswith(
        "GCS_BUCKET_NAME: what comes from other buckets may get a name that a route writes, too"
    )
    assert "entry 1 (s3://source/logs/ → gs://archive/)" in warning
    assert load(tmp_path, ROUTES=json.dumps([ENTRY]), GCS_BUCKET_NAME="rest")[1] == []


def test_a_prefix_without_its_bucket_is_pointed_out(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, ROUTES=json.dumps([ENTRY]), GCS_KEY_PREFIX="in/")[1]
    assert warning.startswith("GCS_KEY_PREFIX: is without effect")


def test_the_bucket_for_the_rest_takes_part_in_no_loop_unless_source_buckets_makes_it_so(
    tmp_path: Path,
) -> None:
    back = {"from": "gs://archive/in/", "to": "s3://landing/"}
    assert len(routes(tmp_path, back, GCS_BUCKET_NAME="archive")) == 2
    (problem,) = problems(tmp_path, back, GCS_BUCKET_NAME="archive", SOURCE_BUCKETS="landing")
    assert "lead into one another" in problem
    assert "GCS_BUCKET_NAME (s3://landing/ → gs://archive/)" in problem


# --- The page about it ---

PAGE = (Path(__file__).parents[2] / "docs" / "routes.md").read_text()
EXAMPLES = re.findall(r"```(toml|yaml|sh)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("language", "text"), EXAMPLES)
def test_the_examples_of_the_page_work(tmp_path: Path, language: str, text: str) -> None:
    if language == "sh":
        settings, warnings = load(tmp_path, ROUTES=text.removeprefix("ROUTES='").rstrip("'\n"))
    else:
        (tmp_path / f"routes.{language}").write_text(text)
        settings, warnings = load(tmp_path, ROUTES_FILE=str(tmp_path / f"routes.{language}"))
    assert len(routes_of(settings)) == 2
    assert warnings == []


def test_the_page_names_every_key_and_storage_class() -> None:
    assert len(EXAMPLES) == 4
    keys = [field.alias or name for name, field in RouteEntry.model_fields.items()]
    classes = [name for names in STORAGE_CLASSES.values() for name in names]
    assert [word for word in (*keys, *classes) if f"`{word}`" not in PAGE] == []

"""The last step of `make docs` sees what is wrong with a built site."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.site import check, main

_GOOD = """<html><head><link rel="stylesheet" href="_static/a.css?v=1"><link rel="next" href="b.html"></head>
<body id="top"><a href="b.html#there">b</a><a href="#top">up</a><img src="a.svg"><a href="https://example.org/x">x</a>
<svg><use href="#icon"></use></svg></body></html>"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "a.css").write_text("/* from https://example.org */ p { background: url(b.png) }")
    (tmp_path / "_static" / "b.png").write_bytes(b"")
    (tmp_path / "_static" / "a.js").write_text("// https://example.org\nmake('http://www.w3.org/2000/svg')")
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"><style>p{fill:url(#a)}</style></svg>'
    )
    (tmp_path / "a.html").write_text(_GOOD)
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    return tmp_path


def test_a_good_site_has_no_problems(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(site)
    assert found.problems == []
    assert (found.pages, found.links, found.fetched) == (2, 3, 5)
    assert found.outside == {"https://example.org/x": {"a.html"}}
    assert main(str(site)) == 0
    assert "not called: https://example.org/x (a.html)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ('<a href="c.html">', "c.html leads nowhere"),
        ('<a href="b.html#nowhere">', "b.html#nowhere: the page has no such place"),
        ('<a href="#nowhere">', "#nowhere: the page has no such place"),
        ('<a href="http://example.org/">', "http://example.org/ is no link to a public https site"),
        ('<a href="https://localhost/">', "https://localhost/ is no link to a public https site"),
        ('<img src="none.png">', "none.png is not there"),
        (
            '<img srcset="https://example.org/a.png 2x">',
            "https://example.org/a.png is fetched from elsewhere",
        ),
        ('<script src="https://example.org/a.js">', "https://example.org/a.js is fetched from elsewhere"),
        ('<script src="//example.org/a.js">', "//example.org/a.js is fetched from elsewhere"),
        (
            '<link rel="preconnect" href="https://example.org">',
            "https://example.org is fetched from elsewhere",
        ),
        (
            '<p style="background: url(https://example.org/a)">',
            "https://example.org/a is fetched from elsewhere",
        ),
        ("<style>@import 'https://example.org/a'</style>", "https://example.org/a is fetched from elsewhere"),
    ],
)
def test_what_is_wrong_in_a_page_is_told(
    site: Path, wrong: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "wrong.html").write_text(wrong)
    assert check(site).problems == [f"wrong.html: {problem}"]
    assert main(str(site)) == 1
    assert f"WRONG: wrong.html: {problem}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.css", "@font-face { src: url('https://example.org/a.woff2') }"),
        ("a.js", "fetch('https://example.org/beacon')"),
        ("a.svg", '<svg><image href="https://example.org/a.png"/></svg>'),
        ("a.svg", "<svg><style>@font-face { src: url(https://example.org/a.woff2) }</style></svg>"),
    ],
)
def test_what_an_asset_would_fetch_is_told(site: Path, name: str, source: str) -> None:
    (site / name).write_text(source)
    problems = check(site).problems
    assert problems
    assert all(f"{name}: https://example.org" in problem for problem in problems)


def test_no_site_at_all_is_no_good_site(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check(tmp_path)

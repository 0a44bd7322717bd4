"""Checks a built site: every link inside leads somewhere, and nothing is fetched from elsewhere to show a page.

`python -m tests.docs.site build/docs` is the last step of `make docs`. Links to other sites are listed and their form
is checked; nobody calls them.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

_FOLLOWED: Final = frozenset({"a", "area"})
_LINKS_TO_PAGES: Final = frozenset({"canonical", "index", "next", "prev", "search", "up"})
_ADDRESSES: Final = ("src", "href", "data", "poster", "action", "xlink:href")
_STYLES: Final = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")
_COMMENTS: Final = re.compile(r"/\*.*?\*/|<!--.*?-->|(?<!\S)//[^\n]*", re.DOTALL)
_OUTSIDE: Final = re.compile(r"https?://[^\s\"'`<>)\\]+")
_NAMESPACES: Final = "http://www.w3.org/"


@dataclass
class Site:
    """What was found in one folder of HTML and what belongs to it."""

    pages: int = 0
    links: int = 0
    fetched: int = 0
    outside: dict[str, set[str]] = field(default_factory=dict)
    """Links to other sites, each with the pages that have it."""
    problems: list[str] = field(default_factory=list)


class _Page(HTMLParser):
    """Collects what a page can be linked by, what it links to, and what a browser fetches for it."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        self.fetched += _of_css(found.get("style", ""))
        self.fetched += [part.split()[0] for part in found.get("srcset", "").split(",") if part.strip()]
        goes_to_page = tag in _FOLLOWED or (tag == "link" and found.get("rel") in _LINKS_TO_PAGES)
        for name in _ADDRESSES:
            if found.get(name):
                (self.links if goes_to_page else self.fetched).append(found[name])
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._style:
            self.fetched += _of_css(data)

    def handle_endtag(self, tag: str) -> None:
        self._style = False


def check(folder: Path) -> Site:
    """Reads the whole site. Raises FileNotFoundError when there is none."""
    site = Site()
    pages = {path: _read(path) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        raise FileNotFoundError(f"no pages in {folder}")
    site.pages = len(pages)
    for path, page in pages.items():
        name = str(path.relative_to(folder))
        for address in page.links:
            _follow(address, path, name, pages, site)
        for address in page.fetched:
            _fetch(address, path, name, site)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".css", ".js", ".svg"):
            _check_asset(path, str(path.relative_to(folder)), site)
    return site


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _follow(address: str, path: Path, name: str, pages: dict[Path, _Page], site: Site) -> None:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        site.outside.setdefault(address, set()).add(name)
        if parts.scheme != "https" or not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc):
            site.problems.append(f"{name}: {address} is no link to a public https site")
        return
    site.links += 1
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        site.problems.append(f"{name}: {address} leads nowhere")
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        site.problems.append(f"{name}: {address}: the page has no such place")


def _fetch(address: str, path: Path, name: str, site: Site) -> None:
    site.fetched += 1
    parts = urlsplit(address)
    if parts.scheme == "data" or address.startswith("#"):
        return
    if parts.scheme or parts.netloc:
        site.problems.append(f"{name}: {address} is fetched from elsewhere")
    elif parts.path and not (path.parent / unquote(parts.path)).is_file():
        site.problems.append(f"{name}: {address} is not there")


def _check_asset(path: Path, name: str, site: Site) -> None:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".js":
        # A script has no reason to know another site, but for the names of XML's dialects.
        found = _OUTSIDE.findall(_COMMENTS.sub("", source))
        foreign = [address for address in found if not address.startswith(_NAMESPACES)]
        site.problems += [f"{name}: {address} may be fetched from elsewhere" for address in foreign]
        return
    for address in _read(path).fetched if path.suffix == ".svg" else _of_css(source):
        _fetch(address, path, name, site)


def _of_css(source: str) -> list[str]:
    return [first or second for first, second in _STYLES.findall(_COMMENTS.sub("", source))]


def main(folder: str) -> int:
    """Prints what was found; 1 when something is wrong."""
    site = check(Path(folder).resolve())
    for address, names in sorted(site.outside.items()):
        where = "every page" if len(names) == site.pages else ", ".join(sorted(names))
        print(f"not called: {address} ({where})")
    for problem in site.problems:
        print(f"WRONG: {problem}")
    print(
        f"{site.pages} pages, {site.links} links inside, {site.fetched} assets, {len(site.outside)} links to other "
        f"sites, {len(site.problems)} problems"
    )
    return 1 if site.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

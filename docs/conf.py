"""How `make docs` builds these pages with Sphinx. They are plain Markdown: a code host shows them as well."""

import re

import consumer

project = "Cross-Cloud Replicator"
author = "The authors of Cross-Cloud Replicator"
copyright = "the authors, Apache-2.0"  # noqa: A001 - Sphinx's name
release = consumer.__version__

extensions = ["myst_parser"]
exclude_patterns = ["_*"]
# Links to headings go by the anchors that code hosts give them.
myst_heading_anchors = 4
nitpicky = True

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

# Pages of the repository's root, which the site has beside the others.
_ROOT_PAGES = {
    "../ARCHITECTURE.md": "architecture.md",
    "../CHANGELOG.md": "changelog.md",
    "../README.md": "index.md",
}


def _links_inside(_app, _page, source):
    for outside, inside in _ROOT_PAGES.items():
        source[0] = re.sub(rf"\]\({re.escape(outside)}(?=[)#])", f"]({inside}", source[0])


def setup(app):
    """Sphinx's hook."""
    app.connect("source-read", _links_inside)
    return {"parallel_read_safe": True}

"""The status page: what it shows (`view`), as HTML (`page`), and how it is served (`routes`)."""

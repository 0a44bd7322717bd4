"""Measurements of the daemon on real servers: `make bench`, or `python -m bench --help`."""

"""Promises, the line of code that keeps each, and the test that turns red without it.

`python -m tests.guards` breaks a copy of the program at each of them in turn and expects the named tests to fail.
"""

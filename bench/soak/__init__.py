"""The daemon under a steady load for a long time: does anything grow? `make soak`, or `python -m bench.soak --help`."""

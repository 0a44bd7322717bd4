"""Stand-ins for the clouds that the tests start themselves."""

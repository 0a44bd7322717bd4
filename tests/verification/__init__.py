"""What proves a copy: every grade through the whole engine and the whole message path, and what no grade lets pass."""

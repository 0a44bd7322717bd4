"""The soak itself: its verdict fails what it must fail, and a short run of it passes."""

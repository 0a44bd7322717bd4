"""One suite for each port, over everything that implements it. Known gaps of an emulator are expected failures."""

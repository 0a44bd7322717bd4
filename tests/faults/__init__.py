"""What goes wrong between the two clouds, and what the engine makes of it."""

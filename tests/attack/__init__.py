"""The sidecar and the engine behind it under attack: hostile documents, bodies, clients, names; and nothing told."""

"""The tests: unit, contract, property, faults, acceptance and deploy, and what they share."""

"""The real emulators behind `make test-emulators`: how they are provisioned, started and stopped."""

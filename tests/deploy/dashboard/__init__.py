"""The dashboard drawn with Grafana's own components, over what a real Prometheus answers of an eventful run."""

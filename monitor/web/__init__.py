"""What is served over HTTP: metrics, health and the live page."""

"""The web server: metrics, health and the live page."""

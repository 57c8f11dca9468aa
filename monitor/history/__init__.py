"""Past alerts and actions, stored in SQLite."""

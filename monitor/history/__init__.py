"""What was alerted and what people did about it, kept in SQLite."""

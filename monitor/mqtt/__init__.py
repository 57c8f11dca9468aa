"""The connections to the broker, and what goes over them."""

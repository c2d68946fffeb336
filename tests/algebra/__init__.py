"""The algebra of rows under random queries and random writes: what a write spares must not have changed."""

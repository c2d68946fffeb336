"""What a statement depends on and what a statement changes."""

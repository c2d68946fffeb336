"""The walk through the atlas that compares every cached page with its uncached twin."""

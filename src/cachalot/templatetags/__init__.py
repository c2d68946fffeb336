"""Template tags of cachalot."""

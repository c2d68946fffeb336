"""Management commands of cachalot."""

"""The tests of cachalot. ``python -m tests.run`` starts the servers and runs them all."""

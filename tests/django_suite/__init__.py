"""Django's own tests, run with cachalot installed and compared with a run without it."""

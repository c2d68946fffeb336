"""The project that serves the atlas."""

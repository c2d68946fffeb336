"""An app with tables for processes that are killed."""

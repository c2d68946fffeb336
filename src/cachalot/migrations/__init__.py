"""The tables of cachalot itself: one, the outbox."""

"""Where entries and tokens live: one contract, several kinds of cache."""

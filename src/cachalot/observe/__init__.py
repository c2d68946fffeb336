"""What happened: events, counters and logging; nothing here takes part in a decision."""

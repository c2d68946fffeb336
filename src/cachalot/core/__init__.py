"""What is true by reasoning alone: tags, protocol, keys, entries and decisions; no Django, no I/O, no clock."""

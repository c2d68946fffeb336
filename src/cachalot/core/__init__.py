"""What is true by reasoning alone: tags, protocol, keys, entries, decisions; no Django, no I/O."""

"""What cachalot costs and what it saves, measured."""

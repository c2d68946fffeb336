"""What decides whether a result may be served, stored or must die."""

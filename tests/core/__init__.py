"""What needs neither an engine nor a file."""

"""Data that ships with dynlog: a sample of a production trace for the demo (see NOTICE for its licence)."""

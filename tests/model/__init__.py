"""State machines that drive the real thing and a small oracle side by side."""

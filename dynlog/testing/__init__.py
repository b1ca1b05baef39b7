"""What a project needs to test against dynlog and the real servers under it: servers as objects, and a pytest plugin."""

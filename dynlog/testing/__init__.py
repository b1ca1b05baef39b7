"""What a project needs to test against dynlog and the real servers under it: servers as objects and a pytest plugin.

The plugin is `dynlog.testing.plugin` and loads by itself where dynlog is installed; `NativeServer` and its subclasses
are for tests that kill, pause and restart a server of their own.
"""

"""The command line.  `app.main` turns every outcome into an exit status and at most one line on stderr; `root` finds
the groups; `run` and `interrupt` decide what signals do; `output` decides what goes to stdout.  The groups themselves:
``log_*``, ``router_*``, ``demo``.
"""

"""Shows results: text for people, JSON for programs, SVG and HTML for files. Nothing is measured or judged here.

Only what writes on a screen imports rich (console, layout, simulation, comparison, sweep, replications, both, batch,
progress, counting), so that ``--json`` never pays for it.
"""

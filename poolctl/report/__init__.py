"""Shows results: text for people, JSON for programs, SVG and HTML for files. Nothing is measured or judged here.

Only console, layout, simulation, comparison and progress import rich, so that ``--json`` never pays for it.
"""

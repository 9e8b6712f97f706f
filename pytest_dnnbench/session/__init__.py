"""One pytest session, a file per thing that it does; beside plugin.py and hookspecs.py the only
code that imports pytest."""

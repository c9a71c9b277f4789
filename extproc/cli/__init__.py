"""The command line: one module, or one folder, for each command, found by the command's name.

A module holds the command and how it shows what it found; what it imports at its top is cheap, the rest comes when
the command runs. Add one: write `NAME.py` with a `command` (a hyphen of the name is an underscore of the file), and
its line in `main.COMMANDS`. May import everything below.
"""

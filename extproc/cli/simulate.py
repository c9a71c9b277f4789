"""`looper simulate`: models that are none, to try things with."""

from looper.simulate.server import main

command = main
command.name = "simulate"

"""How a team of models answers: one file or folder for each pattern."""

"""What patterns share on the way from several answers to the one that is published."""

"""What patterns share on the way from several answers to the one that is published.

Choosing among answers, judging and verifying them, weighing who said them, showing them to a model, publishing, and
ending in the one way in which every pattern ends (`conclude`). Knows no pattern.
"""

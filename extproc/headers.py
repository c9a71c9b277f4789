"""The headers that are ours. Clients' copies never reach a route; backends never see them."""

MODEL = "x-looper-model"
ROLE = "x-looper-role"
RUN = "x-looper-run"
DECISION = "x-looper-decision"
ALGORITHM = "x-looper-algorithm"
OUTCOME = "x-looper-outcome"
RECIPE = "x-looper-recipe"
TRAILERS = "x-looper-trailers"
"""Set on a routed request that ends with trailers, which must not be retried."""


OWN = (MODEL, ROLE, RUN, DECISION, ALGORITHM, OUTCOME, RECIPE, TRAILERS)

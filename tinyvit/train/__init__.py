"""Training: schedules, optimisers, objectives and the loop that ties them together."""

"""Looking inside a trained model: attention maps, curvature and what they mean."""

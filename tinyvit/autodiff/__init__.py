"""Ground floor: tensors that remember how they were made, and the sweep that differentiates them."""

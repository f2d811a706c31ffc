"""The method itself in plain torch: which circuits, what they give, which weights are made of it. Knows no config."""

"""Classes of images: one of each, told by a small network or by a model with a new head."""

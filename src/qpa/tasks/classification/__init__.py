"""Labels of texts: one of each text, or several, told by a model with a new head."""

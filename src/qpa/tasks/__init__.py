"""What is learned: data, model, loss, metrics. One folder each, none of which knows another; `task` is what all offer."""

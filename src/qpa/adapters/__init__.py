"""What can be generated: peft's methods and bottleneck adapters; put on a model, saved, read back. peft enters here alone."""

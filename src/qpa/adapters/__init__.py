"""What can be generated: peft's methods, bottleneck adapters, whole networks; put on a model, saved, read back. peft enters here alone."""

"""Lightning: the one module, its trainer, checkpoints, signals, processes, loggers."""

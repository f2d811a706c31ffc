"""Names of files in a run's folder that training writes."""

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"  # in its folder of checkpoints
CHECKPOINTS = "checkpoints"
METRICS = "metrics.csv"
WANDB_ID = "wandb-id.txt"

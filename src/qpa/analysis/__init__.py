"""What circuits do: before training, in a finished run, and beside plain PEFT. `python -m qpa.analysis what=...`."""

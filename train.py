"""Fine-tune a model: `python train.py [GROUP=CHOICE] [KEY=VALUE] ...`; `--help` lists the groups."""

from qpa.commands.train import script

if __name__ == "__main__":
    script()

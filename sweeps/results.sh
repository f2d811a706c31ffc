#!/usr/bin/env bash
# The runs behind the last sections of docs/results.md (codes on all layers, circuits, head). TEXT is a folder with train.txt and
# dev.txt (WikiText-2's validation split, cut at an article: 55 articles to train on, 5 to choose and test by). About 6 minutes a run
# on 2 cores, seconds on a GPU.
set -euo pipefail
TEXT=${TEXT:?a folder with train.txt and dev.txt}
FIT="data=text data.train_files=[$TEXT/train.txt] data.val_files=[$TEXT/dev.txt] data.batch_size=4 trainer.max_steps=60 trainer.precision=32-true"
PYTHON=${PYTHON:-.venv/bin/python}

# All linear layers, LoRA r=8, windows of 256 tokens, 1,024 tokens a step: the codes, before tied rows.
$PYTHON train.py -m $FIT generator=none optimizer.lr=1e-3,3e-3,5e-3,1e-2 seed=1,2,3
$PYTHON train.py -m $FIT mapper=codes mapper.width=32 optimizer.lr=3e-3,1e-2,3e-2 seed=1,2,3
$PYTHON train.py -m $FIT mapper=codes mapper.width=11,51 seed=1,2,3
$PYTHON train.py -m $FIT mapper=codes generator.circuits=shared mapper.width=11,32 seed=1,2,3
$PYTHON train.py -m $FIT generator=none optimizer.lr=3e-3,5e-3 seed=4,5
$PYTHON train.py -m $FIT mapper=codes mapper.width=11,32 seed=4,5
$PYTHON train.py -m $FIT mapper=codes generator.circuits=shared mapper.width=11 seed=4,5

# Output head alone, LoRA r=4, windows of 512 tokens, 2,048 tokens a step.
HEAD="$FIT experiment=lm_head data.context=512"
$PYTHON train.py -m $HEAD generator=none optimizer.lr=5e-3,1.5e-2,2e-2,5e-2 seed=1,2,3
$PYTHON train.py -m $HEAD optimizer.lr=3e-3,1e-2,3e-2 seed=1,2,3
$PYTHON train.py -m $HEAD mapper.width=4 mapper.chunk_size=320 seed=1,2,3
$PYTHON train.py -m $HEAD generator=none optimizer.lr=1.5e-2,2e-2 seed=4,5
$PYTHON train.py -m $HEAD seed=4,5

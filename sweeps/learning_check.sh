#!/usr/bin/env bash
# The runs behind "A learning check" in docs/results.md: SmolLM2's output head, LoRA r=4 against QPA at about 50, 5 and 1 % of
# its numbers, and every control at 5 %. TEXT is a folder with train.txt and dev.txt. On 2 cores about 2 minutes a run, and 3 more
# for each seed's first: the hidden states of its windows are computed then and kept.
set -euo pipefail
TEXT=${TEXT:?a folder with train.txt and dev.txt}
PYTHON=${PYTHON:-.venv/bin/python}
RUN="train.py -m experiment=lm_head data=text data.train_files=[$TEXT/train.txt] data.val_files=[$TEXT/dev.txt]
     data.context=512 data.batch_size=4 trainer.max_steps=60 trainer.precision=32-true seed=${SEEDS:-1}"

$PYTHON $RUN generator=none optimizer.lr=5e-3,1.5e-2,3e-2
$PYTHON $RUN optimizer.lr=1e-2,3e-2                                          # 5 %
$PYTHON $RUN latents=frozen_circuit,table,mlp,mps,zeros,random              # 5 %, controls
$PYTHON $RUN mapper.width=148 optimizer.lr=3e-3,1e-2                         # 50 %
$PYTHON $RUN mapper.width=4 mapper.chunk_size=288 optimizer.lr=1e-2,3e-2     # 1 %, as the planner has it
$PYTHON $RUN mapper.width=3                                                  # 1 %, whole rows

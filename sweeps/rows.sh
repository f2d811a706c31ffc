#!/usr/bin/env bash
# The runs behind "Conversations" and "Labels" in docs/results.md: LoRA r=8 and QPA, three or four rates on seed 1, then two more seeds at the
# best of them by validation, given as LORA_LR and QPA_LR. `sweeps/rows.sh instructions` or `minilm`; on 2 cores a run takes about
# 4 and 2 minutes.
set -euo pipefail
PYTHON=${PYTHON:-.venv/bin/python}
FOLDER=${FOLDER:-outputs}

RATES=2e-3,5e-3,1e-2
mkdir -p "$FOLDER"
case $1 in
    instructions)
        FILE=$FOLDER/instructions.jsonl
        RUN="data=files data.train_files=[$FILE] data.generate=100 trainer.max_steps=60"
        $PYTHON examples/recipes/instructions.py "$FILE" ;;
    minilm)
        FILE=$FOLDER/docstrings.jsonl
        RUN="task=classification model=minilm data=files data.train_files=[$FILE] data.batch_size=16"
        RUN+=" trainer.max_steps=150" RATES=1e-3,$RATES
        $PYTHON examples/recipes/docstrings.py "$FILE" ;;
esac

if [ -z "${LORA_LR:-}" ]; then
    $PYTHON train.py -m study="$1" $RUN generator=none optimizer.lr="$RATES"
    $PYTHON train.py -m study="$1" $RUN optimizer.lr=3e-3,1e-2,3e-2
else
    $PYTHON train.py -m study="$1" $RUN generator=none optimizer.lr="$LORA_LR" seed=1,2,3
    $PYTHON train.py -m study="$1" $RUN optimizer.lr="${QPA_LR:?}" seed=1,2,3
fi

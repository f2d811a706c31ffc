#!/usr/bin/env bash
# Tests and benchmarks of one card, within eight minutes, and one table last; nothing that fails stops the rest.
#   benchmarks/gpu.sh                    the .venv of this checkout, or python3 where there is none
#   PYTHON=python3 benchmarks/gpu.sh     another interpreter
#   QUICK=1 benchmarks/gpu.sh            tiny shapes, on a CPU too: a rehearsal
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 WANDB_MODE=offline TOKENIZERS_PARALLELISM=false
OUT=outputs/benchmarks
quick=${QUICK:+--quick}
times=${QUICK:+8}  # a rehearsal may be on a slow machine
times=${times:-1}
[ -n "$QUICK" ] && export OMP_NUM_THREADS=1
mkdir -p "$OUT"
: >"$OUT/gpu.log"
for name in start circuits-card step-card pieces generation head; do  # of an earlier time
  rm -f "$OUT/$name${QUICK:+-quick}.json"
done

# budget NAME SECONDS COMMAND...: its output into gpu.log, and one line of how it went
budget() {
  local name=$1 most=$(($2 * times)) started=$SECONDS
  shift 2
  echo "=== $name: $*" >>"$OUT/gpu.log"
  timeout --kill-after=5 "$most" "$@" >>"$OUT/gpu.log" 2>&1
  local code=$?
  local how="done"
  [ $code -eq 124 ] || [ $code -eq 137 ] && how="cut off after $most s"
  [ $code -ne 0 ] && [ "$how" = "done" ] && how="ended with $code"
  echo "$name: $how, $((SECONDS - started)) s" | tee -a "$OUT/gpu.log"
}

one_card=(env "CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}")  # transformers' Trainer would take all there are
one_card[1]=${one_card[1]%%,*}

budget start 40 "${one_card[@]}" "$PYTHON" -m benchmarks.start $quick
budget circuits 30 "${one_card[@]}" "$PYTHON" -m benchmarks.circuits --card $quick
budget step 175 "${one_card[@]}" "$PYTHON" -m benchmarks.step --card --seconds 130 $quick
# in one process, only the files that have such tests, and none of the plugins that a bare machine lacks
mapfile -t files < <(grep -rlE 'pytest\.mark\.gpu' tests --include='test_*.py' | sort)
budget tests 150 "$PYTHON" -m pytest -m gpu -o addopts=-v --continue-on-collection-errors "${files[@]}"
budget pieces 30 "${one_card[@]}" "$PYTHON" -m benchmarks.pieces $quick
budget generation 20 "${one_card[@]}" "$PYTHON" -m benchmarks.generation $quick
budget head 30 "${one_card[@]}" "$PYTHON" -m benchmarks.head $quick
grep -E '^(FAILED|ERROR) |^=+ .*(passed|failed|skipped|error).* in ' "$OUT/gpu.log" | tail -n 40
"$PYTHON" -m benchmarks.gpu_table $quick | tee "$OUT/gpu.txt"

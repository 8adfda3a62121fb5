#!/usr/bin/env bash
# From nothing to a neural keep, on two CPU cores: data in a minute, then pieces of training, each of which may be the
# last. Run it again to go on: what is there is not made again, and the next piece begins from the last one's weights.
# Takes 11 GB of memory.
#
#   scripts/train_keep.sh            one piece of 45 minutes
#   scripts/train_keep.sh 60 2       two pieces of an hour; what shipped took eight, see docs/training_log.md
#   python play.py --checkpoint runs/keep-1
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-45}
pieces=${2:-1}

# Large tensors stay with the process, rather than going back to the system and being asked for again: a sixth faster.
export MALLOC_MMAP_THRESHOLD_=2147483648 MALLOC_TRIM_THRESHOLD_=17179869184

python play.py --world keep --engine --bot mix --headless --sessions 2400 --frames 160 --seed 1000 --record data/keep

for ((more = 0; more < pieces; more++)); do
  last=0
  while [[ -f runs/keep-$((last + 1))/weights.safetensors ]]; do last=$((last + 1)); done
  from=()
  if ((last)); then from=(--resume "runs/keep-$last"); fi
  python train.py --config configs/keep.yaml --data data/keep --out "runs/keep-$((last + 1))" \
    --minutes "$minutes" "${from[@]}"
done

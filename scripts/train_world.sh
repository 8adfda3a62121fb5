#!/usr/bin/env bash
# From nothing to a neural world: recordings by bots on all cores, pieces of training, each of which may be the last, and
# what the world is worth after the last one. Run it again to go on: what is there is not made again, a piece that was cut
# off goes on at its last checkpoint, and the next piece begins from the last one's weights.
#
#   scripts/train_world.sh keep            one piece of 45 minutes; on two CPU cores what shipped took eight
#   scripts/train_world.sh keep 60 2       two pieces of an hour
#   scripts/train_world.sh arena 25        the arena in first person, where a GPU is at hand
#   scripts/train_world.sh arena_gpu 55    the same with four times the picture, and for a GPU alone
#   SESSIONS=16 scripts/train_world.sh tiny_view 1     all of it as a toy, to see that it runs
#   python play.py --checkpoint runs/keep-1
#
# Takes 11 GB of memory; arena_gpu, by reckoning, 40 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?which of configs/*.yaml}
minutes=${2:-45}
pieces=${3:-1}
case $name in
  *keep*) sessions=2400 frames=160 ;;
  *) sessions=1200 frames=64 ;; # short, so of many rooms: each has another relief
esac

# Large tensors stay with the process, rather than going back to the system and being asked for again: a sixth faster.
export MALLOC_MMAP_THRESHOLD_=2147483648 MALLOC_TRIM_THRESHOLD_=17179869184

python play.py --engine --config "configs/$name.yaml" --bot mix --headless --sessions "${SESSIONS:-$sessions}" \
  --frames "$frames" --seed 1000 --record "data/$name"

for ((more = 0; more < pieces; more++)); do
  last=0
  while [[ -f runs/$name-$((last + 1))/weights.safetensors ]]; do last=$((last + 1)); done
  out=runs/$name-$((last + 1))
  from=()
  if ((last)); then from=(--resume "runs/$name-$last"); elif [[ -f $out/student_rollout/resume.pt ]]; then from=(--resume); fi
  python train.py --config "configs/$name.yaml" --data "data/$name" --out "$out" --minutes "$minutes" "${from[@]}"
done
python -m world_model.evaluate --checkpoint "$out" --report "$out/report"

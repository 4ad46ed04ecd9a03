#!/usr/bin/env bash
# Every figure of the README, from nothing: some hours on two cores, two sweeps side by side.
# FFBP_DATA_DIR says where MNIST is; a sweep that is already in logs/results is not run again.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

sweep() { # name, then what follows `python train.py -m`
  local name=$1 into=logs/results/$1
  shift
  [ -f "$into/sweep.json" ] || .venv/bin/python train.py -m hydra.sweep.dir="$into" "$@" >"logs/$name.log"
  .venv/bin/python results/collect.py "$name" "$into" "python train.py -m $*"
}

five=seed=0,1,2,3,4 # of what takes less than ten minutes
{
  sweep paper_ff experiment=paper_ff $five,5,6,7,8,9
  sweep paper_ff_shifts experiment=paper_ff_shifts $five
  sweep paper_ff_all experiment=paper_ff data.val_size=0 $five
} &
sweep paper_bp experiment=paper_bp $five,5,6,7,8,9
for name in control_bp control_bp_shifts fashion_paper_bp fashion_ff fashion_bp; do sweep "$name" "experiment=$name" $five; done
for name in fashion_ff_shifts fashion_bp_shifts; do sweep "$name" "experiment=$name" seed=1,2,3; done
for name in fashion_groups fashion_hinton_supervised fashion_hinton_unsupervised fashion_self_contrastive; do
  for pair in "$name" "${name}_bp"; do sweep "$pair" "experiment=$pair" seed=0,1,2; done
done
sweep cells algo=bp,ff model=cnn,mlp trainer.max_epochs=2 seed=0,1,2
sweep cells_position algo=ff model=cnn algo.normalization_per=position trainer.max_epochs=2 seed=0,1,2
{
  for name in ff_negatives ff_threshold ff_readout ff_label ff_peers; do
    sweep "$name" "+sweep=$name" seed=0,1,2
  done
  for name in hinton_local self_contrastive; do sweep "$name" "experiment=$name" $five; done
  for name in conv_ff conv_ff_labels; do sweep "$name" "experiment=$name" seed=0,1,2; done
} &
for name in hinton_supervised hinton_unsupervised; do sweep "$name" "experiment=$name" $five; done
sweep hinton_shifts experiment=hinton_shifts seed=0,1,2
for name in hinton_supervised hinton_shifts hinton_unsupervised self_contrastive hinton_local conv_ff; do
  sweep "${name}_bp" "experiment=${name}_bp" seed=0,1,2
done
.venv/bin/python results/ingredients.py
sweep slides_mlp experiment=slides_mlp seed=0,1,2
sweep self_contrastive_random experiment=self_contrastive algo.optimizer.lr=1e-30 seed=0
sweep softhebb experiment=softhebb seed=0,1,2
sweep softhebb_random experiment=softhebb algo.optimizer.lr=1e-30 seed=0,1,2
sweep softhebb_bp experiment=softhebb_bp seed=0,1,2
sweep optimizers +sweep=optimizers
.venv/bin/python results/optimizers.py
deep="model.widths=[100,100,100,100,100,100,100,100,100,100]"  # at other rates, into the same directory
for words in "" "$deep algo.optimizer.lr=1e-6,1e-2,1e-1"; do
  # shellcheck disable=SC2086
  .venv/bin/python train.py -m +sweep=activations $words hydra.sweep.dir=logs/results/activations >>logs/activations.log
done
.venv/bin/python results/collect.py activations logs/results/activations "python train.py -m +sweep=activations, $deep algo.optimizer.lr=1e-6,1e-2,1e-1"
.venv/bin/python results/activations.py
.venv/bin/python results/lm.py
for network in mlp cnn; do .venv/bin/python results/ledger.py tune "$network"; done
for table in mnist_mlp mnist_cnn fashion_mlp; do .venv/bin/python results/ledger.py run "$table"; done
wait
.venv/bin/python results/readouts.py logs/results/hinton_shifts logs/results/conv_ff_labels
.venv/bin/python results/tables.py

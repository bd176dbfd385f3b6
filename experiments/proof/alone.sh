# Trains a drawn subnet by itself, fp32 and then INT8:
#   FM=… TRAIN=20000 EPOCHS=4 INT8=5000 bash alone.sh NUMBER best.csv runs/alone [SEED]
# FM: folder of the four files of Fashion-MNIST; TRAIN, INT8: images of an epoch; the INT8 network is trained for one.
set -e
number=$1 drawn=$2 root=$3/$1 seed=${4:-0}
read -r space subnet < <(python -c "
import csv, sys
row = list(csv.DictReader(open(sys.argv[1])))[int(sys.argv[2])]
print(row['space'], row['subnet'])" "$drawn" "$number")
settings="experiment=fashion_mnist data.root=$FM data.batch_size=64 data.holdout=2000 data.transform.crop_scale=[0.9,1.0]
  recipe.threads=1 recipe.finetune.fp32.validate_every=null recipe.finetune.fp32.epochs=$EPOCHS recipe.finetune.fp32.optimizer.lr=0.1
  recipe.finetune.int8.epochs=1 recipe.finetune.int8.optimizer.lr=0.01 seed=$seed space=$space subnet='$subnet' paths.root=$root"
# shellcheck disable=SC2086 # words are meant to be split
python -m spaceevo +stage=finetune $settings data.train_images="$TRAIN" weights=random quant=off
# shellcheck disable=SC2086
python -m spaceevo +stage=finetune $settings data.train_images="$INT8" quant=deploy \
  checkpoint="$(ls "$root"/checkpoints/finetune/fashion_mnist/*/checkpoint.pth)"

"""What ``train.py --tune`` does: trainings one after the other, in search of good hyper-parameters."""

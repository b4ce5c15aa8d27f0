"""What ``train.py --check`` looks at before a training is started."""

"""What a training is made of, for boxes and for whole images; train.py has the loop."""

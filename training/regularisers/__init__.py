"""Regularisers of YOLOv4 that act in training alone."""

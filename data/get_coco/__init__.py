"""COCO 2017, downloaded: ``python -m data.get_coco``."""

"""Colour changes through albumentations."""


class Photometric:
    pass

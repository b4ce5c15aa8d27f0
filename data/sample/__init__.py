"""The built-in sample: a few hundred drawn photographs in COCO form, and a clip, so that nothing need be downloaded.

``objects`` (shapes) and ``textures`` make a ``scene``; ``camera``, ``raster`` and ``render`` make light of it, ``lens``
a photograph; ``picture`` draws one image with its boxes, ``make`` the folder, ``clip`` a video.
"""

from data.sample.make import NAMES, ensure_sample, is_sample, make_sample

__all__ = ["NAMES", "ensure_sample", "is_sample", "make_sample"]

"""Hand a network to other programs.

python export.py --weights best.pt --weights-out best.weights                        for Darknet and OpenCV
python export.py partial --cfg yolov4.cfg --weights yolov4.weights --layers 137 --out yolov4.conv.137
python export.py anchors --data my.data --cfg yolov4.cfg --out my.cfg               a cfg whose anchors fit your boxes
"""

from __future__ import annotations

if __name__ == "__main__":  # what cannot be written is refused before the imports below: torch takes seconds
    from export.flags import preview_export
    from utils import cli

    cli.attempt(preview_export)

from export.commands import main  # the name ``export`` is the folder's: nothing could import a main from this file
from utils import cli

if __name__ == "__main__":
    cli.run(main)

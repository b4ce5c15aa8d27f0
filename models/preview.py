"""What of a network can be refused before torch is imported: its cfg, its names, the length of a .weights file.

Importing torch takes seconds and 600 MB, a look at cfg and file sizes a tenth of one. So a script that is started as a
program begins with its preview, which stands beside its flags: it reads them and asks here. All that is refused would
be refused later on, too, by the same checks and in the same words; what cannot be known yet, as a checkpoint's cfg or
the classes of a data set, is left to the script.
"""

from __future__ import annotations

from pathlib import Path

from models import describe_network
from models.graph import plan
from models.weights_file import check_length
from utils.cfg import load_cfg, with_size
from utils.checkpoint_archive import check_archive
from utils.names import read_names
from utils.structures import Size


def check_network(cfg: str | None, weights: str, *, size: Size | None = None, names: str | None = None) -> None:
    """Refuse what `models.load_network` would."""
    if names is not None:
        read_names(names)
    checkpoint = Path(weights).suffix == ".pt"
    if checkpoint:
        check_archive(Path(weights), contents=False)
        if cfg is None:
            return
    config = load_cfg(cfg) if checkpoint and cfg is not None else describe_network(cfg, weights)[0]
    graph = plan(config if size is None else with_size(config, size))
    if not checkpoint:
        check_length(graph, config.source, weights)

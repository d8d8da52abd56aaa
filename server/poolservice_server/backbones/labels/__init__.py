"""Class names that many networks share.

`imagenet1k.txt` has the 1000 classes of ImageNet (ILSVRC 2012) in the order of their WordNet ids, which most networks
trained on it use. The short names are those of torchvision 0.29 (`torchvision/models/_meta.py`), which is licensed
under BSD-3-Clause; `LICENSE.torchvision` has the text.
"""

from importlib.resources import files

#: The sets of class names by the word that the command accepts.
LABEL_SETS = {"imagenet-1k": "imagenet1k.txt"}


def read_labels(name: str) -> str:
    """Return the names of a set in `LABEL_SETS`, one on each line."""
    return files(__name__).joinpath(LABEL_SETS[name]).read_text(encoding="utf-8")

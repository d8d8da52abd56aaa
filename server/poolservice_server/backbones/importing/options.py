"""What the user says about a model that is imported."""

from dataclasses import dataclass, field
from pathlib import Path

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.presets import PreprocessingFlags
from poolservice_server.backbones.labels import LABEL_SETS, read_labels
from poolservice_server.foreign_text import quote


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the user says about a model.

    Attributes:
        name: the backbone's name in requests.
        description: what it is.
        licence: the licence of its weights; "" if the user does not say it.
        source: where it comes from; "" if the user does not say it.
        outputs: NAME=TENSOR for each output; empty for the default choice.
        preprocessing: the flags about preprocessing.
        labels: the names of the classes; None if the user does not give them.
        image_size: the height and width of the network's input, if it accepts several.
    """

    name: str
    description: str = ""
    licence: str = ""
    source: str = ""
    outputs: tuple[str, ...] = ()
    preprocessing: PreprocessingFlags = field(default_factory=PreprocessingFlags)
    labels: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None


def read_labels_file(labels: str) -> tuple[str, ...]:
    """Return the names of the classes.

    Args:
        labels: the name of a set of labels, or of a file with one on each line.

    Raises:
        ImportFailed: there is no such file, or it is no text.
    """
    if labels in LABEL_SETS:
        text = read_labels(labels)
    else:
        try:
            text = Path(labels).read_text(encoding="utf-8")
        except OSError as error:
            raise ImportFailed(
                f"--labels must be {' or '.join(LABEL_SETS)} or a file: {quote(labels)}: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            raise ImportFailed(f"--labels {quote(labels)}: must be text in UTF-8, one label on each line") from None
    return tuple(line.strip() for line in text.rstrip().split("\n"))

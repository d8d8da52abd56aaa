"""Prints what an import made."""

from poolservice_server.backbones.command.preprocessing_text import preprocessing_text
from poolservice_server.backbones.command.table import print_line
from poolservice_server.backbones.counted import counted
from poolservice_server.backbones.importing.imported import ImportedBackbone


def print_imported(imported: ImportedBackbone) -> None:
    """Print the folder, its outputs and its preprocessing, and the next command."""
    print_line(f"{imported.folder}:")
    for index, output in enumerate(imported.outputs):
        sides = " x ".join(map(str, output.use.shape))
        grid = "" if output.use.grid is None else f", a grid of {output.use.grid[0]} x {output.use.grid[1]}"
        default = ", the default output" if index == 0 else ""
        print_line(f"  output {output.name}: {output.use.kind} {sides}{grid}, from {output.tensor}{default}")
    if imported.classes:
        print_line(f"  linear head of {counted(imported.classes, 'class')}: class activation maps are available")
    else:
        print_line("  no linear head: no classes and no class activation maps")
    print_line(f"  preprocessing: {preprocessing_text(imported.input, imported.preprocessing)}")
    for note in imported.notes:
        print_line(f"  note: {note}")
    print_line(f"check it with: poolservice-server backbone check {imported.folder}")
    print_line(f"serve it with: poolservice-server --backbone {imported.folder}")

"""The options that `poolservice map` and `poolservice embed` share."""

from pathlib import Path
from typing import Annotated

import typer

#: The part of the commands' help about interrupted runs, failures and exit statuses.
RUNS_HELP = (
    "A run that ends early, by Ctrl-C or a crash, leaves FILE.partial beside FILE; run the same command to resume. "
    "Files whose size or modification time has changed since are pooled again. Rows of files that no longer exist are "
    "kept. If you add or leave out files, give --update.\n\n"
    "Files that fail are left out of the results.\n\n"
    "Exit statuses: 0 all files are done; 1 some files failed, or the service is unavailable; 2 the command line is "
    "wrong; 130 interrupted."
)

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILES", help="Images and .npy files: paths, or quoted patterns such as 'photos/**/*.jpg'."),
]
Output = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write the results to an .npz, .npy (one operator; for memory mapping) or .parquet (needs pyarrow).",
    ),
]
FromFile = Annotated[
    list[Path] | None,
    typer.Option(metavar="LIST", help="Also read paths from this file, one per line; - is standard input."),
]
Failures = Annotated[
    Path | None, typer.Option(metavar="FILE", help="List the files that failed, with the reasons, as CSV.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Start over; discard what an earlier run left.")]
Update = Annotated[
    bool,
    typer.Option(
        "--update",
        help="Resume with other files: pool only new and changed ones, and drop the rows of those that are not given "
        "or no longer exist.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only, and no progress bar.")]

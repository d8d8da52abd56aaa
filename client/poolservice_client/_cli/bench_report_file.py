"""The file of `poolservice bench --report`."""

from pathlib import Path

from poolservice_client._cli import dependencies
from poolservice_client._cli.bench_report import Report
from poolservice_client._cli.exit_errors import UsageError, naming
from poolservice_client._cli.pool_output import check_folder


def check(path: Path) -> None:
    """Check that the report can be written, before anything is measured.

    Raises:
        UsageError: the suffix is not supported, or the folder does not exist.
        CommandError: matplotlib is not installed.
    """
    if path.suffix.lower() not in (".html", ".png"):
        raise UsageError(f"--report {path}: the file's name must end in .html or .png")
    check_folder(f"--report {path}", path)
    if path.suffix.lower() == ".png":
        dependencies.require("--report", "matplotlib.figure")


def write(path: Path, report: Report) -> None:
    """Write the report; an existing file is replaced.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    with naming(path):
        if path.suffix.lower() == ".png":
            # matplotlib is optional, and its import takes a second.
            from poolservice_client._cli import bench_figure

            bench_figure.save(path, report)
        else:
            from poolservice_client._cli import bench_html

            path.write_text(bench_html.page(report), encoding="utf-8")

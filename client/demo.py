"""`make demo`: a photograph travels through a running poolservice and comes back pooled.

Starts a server of its own on a free port, asks it through the SDK, holds every answer against torch called directly,
draws before and after, and stops the server. Lies beside the package, not in it: it needs torch and matplotlib.
"""

import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, cast

import numpy as np
import torch
import typer
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image

from poolservice_client import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    GlobalAvgPool2d,
    MaxPool2d,
    MinPool2d,
    MixedPool2d,
    PoolClient,
    PoolSpec,
)
from poolservice_client._figure import Panel, save

_ROOT = Path(__file__).parents[1]
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
#: Large enough to be seen in a figure.
_KERNEL = 16


def demo(
    figure: Annotated[Path, typer.Option(help="Where the before-and-after picture goes.")] = _ROOT / "build/demo.png",
) -> None:
    """Pool a photograph through a server that is started for it, and check the answers."""
    began = time.monotonic()
    photo = Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    typer.echo("starting a server on a free port ...")
    with _server() as address, PoolClient(address) as client:
        info = client.server_info()
        typer.echo(f"poolservice {info.version} serves at {address} on {info.devices[0].name}\n")
        panels = [*_pool_photograph(client, photo), _pool_feature_map(client, photo)]
        _show_translation_invariance(client, photo)
    typer.echo("the server stopped when it was asked to")
    figure.parent.mkdir(parents=True, exist_ok=True)
    save(figure, panels, scale=(0.0, 1.0))
    typer.echo(f"before and after, side by side: {figure}")
    typer.echo(f"done in {time.monotonic() - began:.1f} s; every answer was checked against torch")


def _pool_photograph(client: PoolClient, photo: Path) -> list[Panel]:
    """The photograph through several layers in one call: decoded once, pooled by each."""
    x = _as_tensor(photo)
    # Means by torch in double precision: its float32 sum of a window's 256 values is itself 4e-6 off.
    exact = x.double()
    maximum = torch.nn.functional.max_pool2d(exact, _KERNEL)
    mean = torch.nn.functional.avg_pool2d(exact, _KERNEL)
    by_torch: dict[PoolSpec, torch.Tensor] = {
        MinPool2d(_KERNEL): -torch.nn.functional.max_pool2d(-exact, _KERNEL),
        MaxPool2d(_KERNEL): maximum,
        AvgPool2d(_KERNEL): mean,
        MixedPool2d(_KERNEL, alpha=0.5): 0.5 * maximum + 0.5 * mean,
        AdaptiveAvgPool2d(10): torch.nn.functional.adaptive_avg_pool2d(exact, 10),
        GlobalAvgPool2d(): exact.mean((1, 2), keepdim=True),
    }
    pooled, execution = client.pool(photo, list(by_torch), execution=True)
    typer.echo(f"{photo.name}, {tuple(x.shape)}, decoded in {execution.decode_microseconds / 1000:.1f} ms and pooled:")
    panels = [Panel(photo.name, x.numpy(), 2)]
    for (spec, expected), values in zip(by_torch.items(), pooled, strict=True):
        same_bits = isinstance(spec, MaxPool2d | MinPool2d)
        _hold_against_torch(values, expected, rtol=0 if same_bits else 1e-6)
        same = "bit for bit torch's" if same_bits else "torch's within 1e-6"
        typer.echo(f"  {spec!r:36} {values.shape!s:12} from {values.min():.3f} to {values.max():.3f}, {same}")
        panels.append(Panel(repr(spec), values, 2, tuple(x.shape)))
    return panels


def _pool_feature_map(client: PoolClient, photo: Path) -> Panel:
    """Ten feature maps of the photograph, made by a convolution here, become ten values there."""
    torch.manual_seed(0)
    with torch.inference_mode():
        feature_map = torch.nn.Conv2d(3, 10, kernel_size=3)(_as_tensor(photo))
    # A torch tensor goes in as it is; the client itself never imports torch.
    values = client.pool(feature_map, GlobalAvgPool2d())
    # The means of signed values come close to 0, where a relative error says nothing.
    _hold_against_torch(values, feature_map.double().mean((1, 2), keepdim=True), rtol=1e-6, atol=1e-7)
    typer.echo(f"\na feature map, {tuple(feature_map.shape)}, of a 3x3 convolution; GlobalAvgPool2d() {values.shape}:")
    typer.echo(f"  {_in_line(values.ravel())}\n")
    return Panel("GlobalAvgPool2d() of Conv2d(3, 10, 3)", values, 2, tuple(feature_map.shape))


def _show_translation_invariance(client: PoolClient, photo: Path) -> None:
    """How much the picture, and what is left of it after pooling, changes when it moves by one pixel."""
    x = _as_tensor(photo).numpy()
    here, moved = x[:, :, :-1], x[:, :, 1:]
    typer.echo("translation invariance: the picture moves by one pixel, and on average")
    typer.echo(f"  unpooled              changes by {_change(here, moved)}")
    for kernel in (2, 8, 32):
        spec = MaxPool2d(kernel)
        change = _change(client.pool(here, spec), client.pool(moved, spec))
        typer.echo(f"  {f'max pooled, {kernel}x{kernel}':21} changes by {change}")
    typer.echo()


def _change(before: NDArray[Any], after: NDArray[Any]) -> str:
    return f"{np.abs(after - before).mean():.4f}, with {np.mean(after == before):4.0%} of its values as they were"


def _hold_against_torch(values: NDArray[Any], expected: torch.Tensor, *, rtol: float, atol: float = 0.0) -> None:
    np.testing.assert_allclose(values, expected.numpy(), rtol=rtol, atol=atol)
    if values.dtype != np.float32:
        raise AssertionError(f"float32 was expected, {values.dtype} came")


def _as_tensor(photo: Path) -> torch.Tensor:
    """The picture as torchvision's ToTensor has it: float32, (C, H, W), in [0, 1]."""
    with Image.open(photo) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def _in_line(values: Sequence[float] | NDArray[Any]) -> str:
    return " ".join(f"{value:+.4f}" for value in values)


@contextmanager
def _server() -> Iterator[str]:
    """A server of our own as a process, and its address; stopped with SIGTERM at the end.

    Raises:
        RuntimeError: it does not start, or does not stop as it should; with what it logged.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "poolservice_server", "--address", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            try:
                status = process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if status != 0:
            raise RuntimeError(f"the server ended with status {status}:\n{_all(log)}")


def _address(process: subprocess.Popen[str], log: IO[str]) -> str:
    """What the line that a server prints once it serves ends with."""
    output = cast(IO[str], process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        line = output.readline() if selector.select(_START_SECONDS) else ""
    if not line:
        raise RuntimeError(f"the server ended, or did not serve within {_START_SECONDS:.0f} s:\n{_all(log)}")
    return line.split()[-1]


def _all(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(demo)
    app()

"""The demonstration behind `make demo`: use a real server, and compare its results with torch.

Starts a server on a free port, pools a photograph through the SDK, checks every result against torch, draws the figure
of the README, and stops the server. If the weights of a real network are installed, the server also serves that: it
names what is in photographs, shows where, and finds similar ones. This file is not part of the package because it needs
torch and matplotlib.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image

import demo_backbone
import demo_figure
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
from poolservice_server.testing import serve

_ROOT = Path(__file__).parents[1]
# Large enough to be visible in the figure.
_KERNEL = 16


def demo(
    figure: Annotated[Path, typer.Option(help="The file of the figure.")] = _ROOT / "build/demo.png",
    packages: Annotated[
        Path, typer.Option(help="The folder in which the weights and photographs are installed.")
    ] = _ROOT / ".venv/demo",
    backbone: Annotated[
        Path, typer.Option(help="The folder of the backbone, which is made of the weights if it does not exist.")
    ] = _ROOT / "build/backbones/mobilenetv2",
) -> None:
    """Use a server that this program starts, and check the results."""
    started = time.monotonic()
    photo = Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    has_backbone = _has_backbone(packages, backbone)
    typer.echo("starting a server on a free port ...")
    flags = ("--backbone", str(backbone)) if has_backbone else ()
    with serve(*flags) as service, PoolClient(service.address) as client:
        info = client.server_info()
        typer.echo(f"poolservice {info.version} serves at {service.address} on {info.devices[0].name}\n")
        panels = [*_pool_photograph(client, photo), _pool_feature_map(client, photo)]
        _show_translation_invariance(client, photo)
        if has_backbone:
            paths = demo_backbone.photographs(packages)
            reference = demo_backbone.Reference(backbone)
            seen = demo_backbone.explain(client, reference, paths)
            neighbors = demo_backbone.find_neighbors(client, reference, paths)
    typer.echo("the server has stopped")
    figure.parent.mkdir(parents=True, exist_ok=True)
    if has_backbone:
        demo_figure.save(figure, panels[:6], seen, neighbors)
    else:
        save(figure, panels, limits=(0.0, 1.0))
    typer.echo(f"figure: {figure}")
    typer.echo(f"done in {time.monotonic() - started:.1f} s; every result was checked against torch")


def _has_backbone(packages: Path, backbone: Path) -> bool:
    try:
        demo_backbone.import_backbone(packages, backbone)
    except demo_backbone.NoBackboneError as error:
        typer.echo(f"going on without a real network: {error}")
        return False
    return True


def _pool_photograph(client: PoolClient, photo: Path) -> list[Panel]:
    """Pool the photograph with several layers in one call, which decodes it once."""
    x = _as_tensor(photo)
    # The reference is computed in float64: torch's float32 sum of a window's 256 values is itself 4e-6 off.
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
        _check_against_torch(values, expected, rtol=0 if same_bits else 1e-6)
        agreement = "equal to torch bit for bit" if same_bits else "equal to torch within 1e-6"
        typer.echo(f"  {spec!r:36} {values.shape!s:12} from {values.min():.3f} to {values.max():.3f}, {agreement}")
        panels.append(Panel(repr(spec), values, 2, tuple(x.shape)))
    return panels


def _pool_feature_map(client: PoolClient, photo: Path) -> Panel:
    """Pool a feature map: a local convolution makes ten channels, and the server returns their ten means."""
    torch.manual_seed(0)
    with torch.inference_mode():
        feature_map = torch.nn.Conv2d(3, 10, kernel_size=3)(_as_tensor(photo))
    # The client accepts torch tensors but never imports torch.
    values = client.pool(feature_map, GlobalAvgPool2d())
    # The means of signed values can be close to 0, where a relative tolerance alone is too strict.
    _check_against_torch(values, feature_map.double().mean((1, 2), keepdim=True), rtol=1e-6, atol=1e-7)
    typer.echo(f"\na feature map, {tuple(feature_map.shape)}, of a 3x3 convolution; GlobalAvgPool2d() {values.shape}:")
    typer.echo(f"  {_format(values.ravel())}\n")
    return Panel("GlobalAvgPool2d() of Conv2d(3, 10, 3)", values, 2, tuple(feature_map.shape))


def _show_translation_invariance(client: PoolClient, photo: Path) -> None:
    """Print how much the image and its pooled versions change when the image is shifted by one pixel."""
    x = _as_tensor(photo).numpy()
    original, shifted = x[:, :, :-1], x[:, :, 1:]
    typer.echo("translation invariance: the image is shifted by one pixel; on average")
    typer.echo(f"  unpooled              changes by {_change(original, shifted)}")
    for kernel in (2, 8, 32):
        spec = MaxPool2d(kernel)
        change = _change(client.pool(original, spec), client.pool(shifted, spec))
        typer.echo(f"  {f'max pooled, {kernel}x{kernel}':21} changes by {change}")
    typer.echo()


def _change(before: NDArray[Any], after: NDArray[Any]) -> str:
    return f"{np.abs(after - before).mean():.4f}, with {np.mean(after == before):4.0%} of the values unchanged"


def _check_against_torch(values: NDArray[Any], expected: torch.Tensor, *, rtol: float, atol: float = 0.0) -> None:
    np.testing.assert_allclose(values, expected.numpy(), rtol=rtol, atol=atol)
    if values.dtype != np.float32:
        raise AssertionError(f"expected float32, got {values.dtype}")


def _as_tensor(photo: Path) -> torch.Tensor:
    """Return the image as torchvision's ToTensor does: float32, (C, H, W), in [0, 1]."""
    with Image.open(photo) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def _format(values: Sequence[float] | NDArray[Any]) -> str:
    return " ".join(f"{value:+.4f}" for value in values)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(demo)
    app()

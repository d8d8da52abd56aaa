"""Write golden.npz: the results of other libraries for the layers and samples in `golden_cases.py`.

    python tests/layers/generate_golden.py CLONES

No test runs this. It needs these packages, and beside them this repository's specs:

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 kornia==0.9.0 transformers==5.24.0 open-clip-torch==3.3.0
    pip install antialiased-cnns==0.3 pywavelets==1.9.0 scipy==1.18.1 torchmil==1.0.2 faiss-cpu scikit-learn
    pip install googleapis-common-protos ml-dtypes
    pip install --no-deps patchnetvlad==0.1.8 sentence-transformers==6.2.0
    PYTHONPATH=.:protos python tests/layers/generate_golden.py CLONES

CLONES is a folder with clones of the repositories of authors that no package has, at the commits in `COMMITS`.

golden.npz has an array for each case, and the versions that made them. The libraries compute in float32, on the CPU.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from runpy import run_path
from sys import argv
from typing import Any

import antialiased_cnns
import numpy as np
import pywt
import scipy
import torch
import torchvision
from kornia.filters import BlurPool2D, MaxBlurPool2D, median_blur
from kornia.models.siglip2.vision_encoder import SigLip2MultiheadAttentionPoolingHead, SigLip2VisionConfig
from open_clip import modified_resnet
from patchnetvlad.models.netvlad import NetVLAD
from sentence_transformers.sentence_transformer.modules import Pooling
from sklearn.decomposition import PCA
from tests.layers.golden_cases import CASES, DIFFERENCES, HEADS, Case, Head, samples_of
from timm import layers
from timm.layers.median_pool import MedianPool2d
from timm.models import metaformer
from torch import nn
from torchmil.nn import AttentionPool
from transformers import SiglipVisionConfig
from transformers.models.poolformer.modeling_poolformer import PoolFormerPooling
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from poolservice.specs import GeMPool2d, PoolHead2d

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "kornia",
    "transformers",
    "open-clip-torch",
    "antialiased-cnns",
    "pywavelets",
    "scipy",
    "torchmil",
    "patchnetvlad",
    "scikit-learn",
    "sentence-transformers",
    "numpy",
)

#: The repositories on github.com, each in a folder of its name, and their commits.
COMMITS: Mapping[str, str] = {
    "filipradenovic/cnnimageretrieval-pytorch": "1e66a417afa2247edde6d35f3a9a2a465778a3a8",
    "yahoo/crow": "75c227715c47c81c960a36232b4ec4ce8c22d364",
    "jiangtaoxie/fast-MPN-COV": "c430c781264b7ce77536493308b09d73d534ce7a",
    "serizba/salad": "e5930053a63c734c2ccbe05aac0aa3ce913edf7f",
}

#: Returns a library's result for a spec and samples (N, C, *), as a tensor or an array.
Reference = Callable[[Any, torch.Tensor], Any]
#: Returns a library's result for a head, its weights and samples.
HeadReference = Callable[[Head, Mapping[str, torch.Tensor], torch.Tensor], Any]

_TORCH_PADDING = {"zeros": "constant"}
_AUTHORS_PADDING = {"zeros": "zero"}


@cache
def _module(path: str) -> dict[str, Any]:
    """Return what a module of a cloned repository defines."""
    return run_path(str(Path(argv[1]) / path))


# --- Boxes ---


def _rows(spec: Any, samples: torch.Tensor) -> torch.Tensor:
    """Return the boxes of all samples, each after the number of its sample."""
    boxes = np.broadcast_to(spec.boxes.array, (len(samples), spec.count, 4)).reshape(-1, 4)
    numbers = np.repeat(np.arange(len(samples)), spec.count)[:, None]
    return torch.from_numpy(np.concatenate([numbers, boxes], 1).astype(np.float32))


def _of_samples(spec: Any, samples: torch.Tensor, result: torch.Tensor) -> Any:
    return result.view(len(samples), spec.count, *result.shape[1:])


def _roi_align(spec: Any, samples: torch.Tensor) -> Any:
    pool = partial(torchvision.ops.roi_align, samples, _rows(spec, samples), spec.bins, spec.spatial_scale)
    result = pool(spec.sampling_ratio, spec.aligned)
    if spec.sampling_ratio < 0 and not torch.equal(result, pool(0, spec.aligned)):
        raise AssertionError("sampling_ratio=0 differs from -1")
    return _of_samples(spec, samples, result)


def _ps_roi_align(spec: Any, samples: torch.Tensor) -> Any:
    boxes = _rows(spec, samples)
    result = torchvision.ops.ps_roi_align(samples, boxes, spec.bins, spec.spatial_scale, spec.sampling_ratio)
    return _of_samples(spec, samples, result)


def _roi_pool(spec: Any, samples: torch.Tensor) -> Any:
    result = torchvision.ops.roi_pool(samples, _rows(spec, samples), spec.bins, spec.spatial_scale)
    return _of_samples(spec, samples, result)


def _ps_roi_pool(spec: Any, samples: torch.Tensor) -> Any:
    result = torchvision.ops.ps_roi_pool(samples, _rows(spec, samples), spec.bins, spec.spatial_scale)
    return _of_samples(spec, samples, result)


# --- Filters ---


def _authors_blur(spec: Any, samples: torch.Tensor) -> Any:
    mode = _AUTHORS_PADDING.get(spec.padding_mode, spec.padding_mode)
    layer = antialiased_cnns.BlurPool(samples.shape[1], mode, spec.kernel_size[0], spec.stride[0])
    return layer(samples)


def _authors_blur_1d(spec: Any, samples: torch.Tensor) -> Any:
    layer = antialiased_cnns.blurpool.BlurPool1D(
        samples.shape[1], spec.padding_mode, spec.kernel_size[0], spec.stride[0]
    )
    return layer(samples)


def _authors_max_blur(spec: Any, samples: torch.Tensor) -> Any:
    return _authors_blur(spec, nn.MaxPool2d(spec.max_pool_size, stride=1)(samples))


def _timm_blur(spec: Any, samples: torch.Tensor) -> Any:
    mode = _TORCH_PADDING.get(spec.padding_mode, spec.padding_mode)
    return layers.BlurPool2d(samples.shape[1], spec.kernel_size[0], spec.stride[0], mode)(samples)


def _kornia_blur(spec: Any, samples: torch.Tensor) -> Any:
    return BlurPool2D(spec.kernel_size[0], spec.stride[0])(samples)


def _kornia_max_blur(spec: Any, samples: torch.Tensor) -> Any:
    return MaxBlurPool2D(spec.kernel_size[0], spec.stride[0], spec.max_pool_size[0])(samples)


def _wavedecn(spec: Any, samples: torch.Tensor) -> Any:
    return pywt.wavedecn(samples.numpy(), "haar", level=spec.levels, axes=range(2, samples.ndim))[0]


def _resample(spec: Any, samples: torch.Tensor) -> Any:
    result = samples.numpy()
    for axis, size in enumerate(spec.output_size, 2):
        result = scipy.signal.resample(result, size, axis=axis)
    return result


# --- Windows and planes ---


def _select_adaptive(kind: str) -> Reference:
    return lambda spec, samples: layers.SelectAdaptivePool2d(1 if kind.startswith("fast") else spec.output_size, kind)(
        samples
    )


def _lse_plus_2d(spec: Any, samples: torch.Tensor) -> Any:
    return layers.LsePlus2d(spec.r, flatten=False)(samples)


def _lse_plus_1d(spec: Any, samples: torch.Tensor) -> Any:
    return layers.LsePlus1d(spec.r)(samples.transpose(1, 2))[..., None]


def _median(spec: Any, samples: torch.Tensor) -> Any:
    return MedianPool2d(spec.kernel_size, spec.stride)(samples)


def _inner(spec: Any, filtered: np.ndarray) -> np.ndarray:
    """Return the results of the windows that lie in the plane."""
    slices = [
        slice(kernel // 2, kernel // 2 + size - kernel + 1)
        for kernel, size in zip(spec.kernel_size, filtered.shape[2:], strict=True)
    ]
    return filtered[:, :, *slices]


def _median_filter(spec: Any, samples: torch.Tensor) -> Any:
    return _inner(spec, scipy.ndimage.median_filter(samples.numpy(), (1, 1, *spec.kernel_size)))


def _rank_filter(spec: Any, samples: torch.Tensor) -> Any:
    return _inner(spec, scipy.ndimage.rank_filter(samples.numpy(), spec.rank - 1, (1, 1, *spec.kernel_size)))


def _of_planes(function: Callable[[Any, np.ndarray], np.ndarray]) -> Reference:
    """Return a function that passes the planes (N, C, values) to a function and keeps their dimensions."""

    def pool(spec: Any, samples: torch.Tensor) -> Any:
        result = np.asarray(function(spec, samples.flatten(2).numpy().astype(np.float64)))
        return result.reshape(*result.shape, *[1] * (samples.ndim - 2))

    return pool


def _pmean(spec: Any, planes: np.ndarray) -> Any:
    values = np.maximum(planes, spec.eps) if isinstance(spec, GeMPool2d) else np.abs(planes)
    return scipy.stats.pmean(values, spec.p, axis=2)


def _kornia_median(spec: Any, samples: torch.Tensor) -> Any:
    return _inner(spec, median_blur(samples, spec.kernel_size).numpy())


def _sentence(mode: str) -> Reference:
    def pool(spec: Any, samples: torch.Tensor) -> Any:
        positions = np.arange(samples.shape[2])
        mask = spec.mask.array if spec.lengths is None else positions < spec.lengths.array[:, None]
        features = {"token_embeddings": samples.mT, "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        return Pooling(samples.shape[1], mode)(features)["sentence_embedding"][..., None]

    return pool


def _pool_former(layer: Callable[[int], nn.Module]) -> Reference:
    return lambda spec, samples: layer(spec.kernel_size[0])(samples)


# --- Descriptors ---


def _cirtorch(pool: Callable[[dict[str, Any], Any, torch.Tensor], torch.Tensor]) -> Reference:
    """Return a function that passes the functions of cirtorch to a function."""
    return lambda spec, samples: pool(_module("cnnimageretrieval-pytorch/cirtorch/layers/functional.py"), spec, samples)


def _rmac(functions: dict[str, Any], spec: Any, samples: torch.Tensor) -> Any:
    # cirtorch adds the whole plane to the regions, which the paper does not.
    regions = functions["rmac"](samples, spec.levels) - functions["l2n"](functions["mac"](samples))
    return functions["l2n"](regions).flatten(1)


def _crow(name: str) -> Reference:
    def pool(_: Any, samples: torch.Tensor) -> Any:
        functions = _module("crow/crow.py")
        return np.stack([functions["normalize"](functions[name](sample)) for sample in samples.numpy()])

    return pool


def _mpncov(spec: Any, samples: torch.Tensor) -> Any:
    module = _module("fast-MPN-COV/src/representation/MPNCOV.py")["MPNCOV"]
    return module(spec.iterations, is_sqrt=spec.iterations > 0, input_dim=samples.shape[1])(samples).flatten(1)


# --- Pool heads ---


def _loaded(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    module.load_state_dict(dict(weights))
    return module.eval()


def _tokens(samples: torch.Tensor) -> Any:
    return samples.flatten(2).transpose(1, 2)


def _open_clip(head: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    outputs, channels = weights["c_proj.weight"].shape
    module = modified_resnet.AttentionPool2d(samples.shape[2], channels, head.parameters["num_heads"], outputs)
    return _loaded(module, weights)(samples)


def _timm_attention(head: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    outputs, channels = weights["c_proj.weight"].shape
    module = layers.AttentionPool2d(
        channels, samples.shape[2], outputs, num_heads=head.parameters["num_heads"], head_dim=None, qkv_separate=True
    )
    names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "c_proj": "proj", "positional_embedding": "pos_embed"}
    renamed = {names[name.partition(".")[0]] + "".join(name.partition(".")[1:]): one for name, one in weights.items()}
    return _loaded(module, renamed)(samples)


def _siglip(module: Callable[[Any], nn.Module], config: Callable[..., Any]) -> HeadReference:
    def pool(head: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
        hidden, channels = weights["mlp.fc1.weight"].shape
        sizes = config(hidden_size=channels, intermediate_size=hidden, num_attention_heads=head.parameters["num_heads"])
        return _loaded(module(sizes), weights)(_tokens(samples))

    return pool


def _timm_latent(head: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    hidden, channels = weights["mlp.fc1.weight"].shape
    module = layers.AttentionPoolLatent(
        channels,
        num_heads=head.parameters["num_heads"],
        mlp_ratio=hidden / channels,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        act_layer=nn.GELU if head.parameters.get("activation") == "gelu" else partial(nn.GELU, approximate="tanh"),
    )
    renamed = {name: one for name, one in weights.items() if name.startswith("mlp.")}
    renamed |= {f"norm.{part}": weights[f"layernorm.{part}"] for part in ("weight", "bias")}
    renamed |= {f"proj.{part}": weights[f"attention.out_proj.{part}"] for part in ("weight", "bias")}
    for part in ("weight", "bias"):
        both = weights[f"attention.in_proj_{part}"]
        renamed |= {f"q.{part}": both[:channels], f"kv.{part}": both[channels:]}
    return _loaded(module, {"latent": weights["probe"], **renamed})(_tokens(samples))


def _timm_simpool(head: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    module = layers.SimPool2d(
        samples.shape[1],
        head.parameters.get("num_heads", 1),
        qkv_bias="wq.bias" in weights,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    names = {"norm_patches": "norm", "wq": "q", "wk": "k"}
    renamed = {names[name.partition(".")[0]] + "." + name.partition(".")[2]: one for name, one in weights.items()}
    return _loaded(module, renamed)(samples)


def _torchmil(head: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    hidden, channels = weights["attention_V.0.weight"].shape
    names = {"attention_V.0": "fc1", "attention_U.0": "fc_gated", "attention_w": "fc2"}
    module = AttentionPool(channels, hidden, gated=True)
    wanted = module.state_dict().keys()
    renamed = {f"{new}.{part}": weights[f"{old}.{part}"] for old, new in names.items() for part in ("weight", "bias")}
    # torchmil's scores have no bias. One bias for all scores does not change their softmax.
    renamed.pop("fc2.bias")
    layered = {name: renamed[name.replace(".module.", ".")] for name in wanted}
    return _loaded(module, layered)(_tokens(samples))


def _patchnetvlad(head: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    clusters, channels = weights["centroids"].shape
    module = NetVLAD(clusters, channels, head.parameters.get("normalize_input", True), vladv2="conv.bias" in weights)
    return _loaded(module, weights)(samples)


def _salad(_: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    outputs, clusters = len(weights["cluster_features.3.bias"]), len(weights["score.3.bias"])
    module = _module("salad/models/aggregators/salad.py")["SALAD"](
        samples.shape[1], clusters, outputs, len(weights["token_features.2.bias"])
    )
    # The first position is the token.
    return _loaded(module, weights)((samples[..., 1:], samples[:, :, 0, 0]))


def _mixvpr(head: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    module = _module("salad/models/aggregators/mixvpr.py")["MixVPR"](
        *samples.shape[1:],
        out_channels=len(weights["channel_proj.bias"]),
        mix_depth=head.parameters["mix_depth"],
        mlp_ratio=len(weights["mix.0.mix.1.bias"]) / samples[0, 0].numel(),
        out_rows=len(weights["row_proj.bias"]),
    )
    return _loaded(module, weights)(samples)


def _pca(_: Head, weights: Mapping[str, torch.Tensor], samples: torch.Tensor) -> Any:
    pca = PCA(whiten=True)
    pca.mean_, pca.components_, pca.explained_variance_ = (
        weights[name].numpy() for name in ("mean", "components", "variance")
    )
    return pca.transform(samples.flatten(1).numpy())


REFERENCES: Mapping[str, Reference] = {
    "torchvision.ops.roi_align": _roi_align,
    "torchvision.ops.ps_roi_align": _ps_roi_align,
    "torchvision.ops.roi_pool": _roi_pool,
    "torchvision.ops.ps_roi_pool": _ps_roi_pool,
    "antialiased_cnns.BlurPool": _authors_blur,
    "antialiased_cnns.BlurPool1D": _authors_blur_1d,
    "antialiased_cnns.BlurPool of MaxPool2d": _authors_max_blur,
    "timm.layers.BlurPool2d": _timm_blur,
    "kornia.filters.BlurPool2D": _kornia_blur,
    "kornia.filters.MaxBlurPool2D": _kornia_max_blur,
    "pywt.wavedecn": _wavedecn,
    "scipy.signal.resample": _resample,
    **{
        f"timm.layers.SelectAdaptivePool2d, {fast}{kind}": _select_adaptive(fast + kind)
        for fast in ("", "fast")
        for kind in ("avg", "max", "avgmax", "catavgmax")
    },
    "timm.layers.LsePlus2d": _lse_plus_2d,
    "timm.layers.LsePlus1d": _lse_plus_1d,
    "timm.layers.MedianPool2d": _median,
    "kornia.filters.median_blur": _kornia_median,
    "scipy.ndimage.median_filter": _median_filter,
    "scipy.ndimage.rank_filter": _rank_filter,
    "scipy.special.logsumexp": _of_planes(
        lambda spec, planes: (scipy.special.logsumexp(spec.r * planes, axis=2) - np.log(planes.shape[2])) / spec.r
    ),
    "scipy.special.softmax": _of_planes(
        lambda spec, planes: (planes * scipy.special.softmax(getattr(spec, "alpha", 1.0) * planes, axis=2)).sum(2)
    ),
    "scipy.stats.pmean": _of_planes(_pmean),
    "scipy.stats.trim_mean": _of_planes(
        lambda spec, planes: scipy.stats.trim_mean(planes, spec.proportiontocut, axis=2)
    ),
    "timm.models.metaformer.Pooling": _pool_former(metaformer.Pooling),
    "transformers.PoolFormerPooling": _pool_former(PoolFormerPooling),
    "sentence_transformers.Pooling, mean": _sentence("mean"),
    "sentence_transformers.Pooling, max": _sentence("max"),
    "cirtorch.gem": _cirtorch(lambda functions, spec, samples: functions["gem"](samples, spec.p, spec.eps)),
    "cirtorch.mac": _cirtorch(lambda functions, _, samples: functions["l2n"](functions["mac"](samples)).flatten(1)),
    "cirtorch.spoc": _cirtorch(lambda functions, _, samples: functions["l2n"](functions["spoc"](samples)).flatten(1)),
    "cirtorch.rmac": _cirtorch(_rmac),
    "crow.apply_crow_aggregation": _crow("apply_crow_aggregation"),
    "crow.apply_ucrow_aggregation": _crow("apply_ucrow_aggregation"),
    "MPNCOV": _mpncov,
}

HEAD_REFERENCES: Mapping[str, HeadReference] = {
    "open_clip.AttentionPool2d": _open_clip,
    "timm.layers.AttentionPool2d": _timm_attention,
    "transformers.SiglipMultiheadAttentionPoolingHead": _siglip(
        SiglipMultiheadAttentionPoolingHead, SiglipVisionConfig
    ),
    "kornia.SigLip2MultiheadAttentionPoolingHead": _siglip(SigLip2MultiheadAttentionPoolingHead, SigLip2VisionConfig),
    "timm.layers.AttentionPoolLatent": _timm_latent,
    "timm.layers.SimPool2d": _timm_simpool,
    "torchmil.AttentionPool": _torchmil,
    "patchnetvlad.NetVLAD": _patchnetvlad,
    "SALAD": _salad,
    "MixVPR": _mixvpr,
    "sklearn.decomposition.PCA": _pca,
}


def _result(reference: str, case: Case) -> np.ndarray:
    samples = torch.from_numpy(samples_of(case))
    with torch.inference_mode():
        if isinstance(case.spec, PoolHead2d):
            head, _, _ = HEADS[case.spec.name]
            weights = {name: torch.from_numpy(weight) for name, weight in head.weights().items()}
            result = HEAD_REFERENCES[reference](head, weights, samples)
        else:
            result = REFERENCES[reference](case.spec, samples)
    return np.asarray(result, np.float32)


def main() -> None:
    """Write golden.npz beside this file."""
    golden = {name: _result(name.partition(":")[0], case) for name, case in {**CASES, **DIFFERENCES}.items()}
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    versions = np.array([*packages, *(f"{name} {commit}" for name, commit in COMMITS.items())])
    np.savez_compressed(Path(__file__).with_name("golden.npz"), allow_pickle=False, versions=versions, **golden)


if __name__ == "__main__":
    main()

"""A wrong request for a backbone is refused before it is queued, and the error says what would be right."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.backbones.core.fake_network import FakeNetwork, backbone, backbones

from poolservice.errors import InvalidRequest
from poolservice.specs import MaxPool1d, MaxPool2d, PoolSpec, to_message
from poolservice.v1 import pool_pb2 as pb
from poolservice_server.backbones.backbone import NO_BACKBONES, BrokenBackbone, Output
from poolservice_server.core.service import Call, PoolService

Serve = Callable[..., PoolService]


def request(
    *specs: PoolSpec, shape: tuple[int, ...] = (3, 8, 8), dtype: Any = pb.DATA_TYPE_FLOAT32, **fields: Any
) -> pb.PoolRequest:
    """Return a request with a preprocessed tensor of zeros for the backbone "net"."""
    size = {pb.DATA_TYPE_FLOAT32: 4, pb.DATA_TYPE_UINT8: 1}[dtype]
    for side in shape:
        size *= side
    if "image" not in fields:
        fields["tensor"] = pb.Tensor(dtype=dtype, shape=shape, data=bytes(size))
    return pb.PoolRequest(specs=[to_message(spec) for spec in specs], **{"backbone": "net"} | fields)


async def refusal(service: PoolService, wrong: pb.PoolRequest) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await service.pool(Call(wrong.SerializeToString()))
    return caught.value


async def test_an_unknown_backbone_is_refused_with_the_names_and_a_suggestion(serve: Serve) -> None:
    service = serve(backbones=backbones(backbone("resnet50"), backbone("mobilenetv2")))
    error = await refusal(service, request(backbone="mobilnetv2"))
    assert (error.field, error.reason) == (
        "backbone",
        "there is no backbone mobilnetv2; this server has resnet50, mobilenetv2; did you mean mobilenetv2?",
    )


async def test_a_server_without_backbones_says_so(serve: Serve) -> None:
    error = await refusal(serve(backbones=NO_BACKBONES), request())
    assert error.reason == "there is no backbone net; this server has no backbones; start it with --backbone"


async def test_a_name_is_escaped_in_the_error(serve: Serve) -> None:
    error = await refusal(serve(), request(backbone="\n\x1b[2J"))
    assert error.reason.startswith(r"there is no backbone \n\x1b[2J; this server has net")


async def test_a_broken_backbone_is_refused_with_the_reason(serve: Serve) -> None:
    broken = BrokenBackbone("net", "model.onnx is missing")
    error = await refusal(serve(backbones=backbones(broken=(broken,))), request())
    assert (error.field, error.reason) == ("backbone", "backbone net does not serve: model.onnx is missing")


async def test_an_unknown_output_is_refused_with_the_names_and_a_suggestion(serve: Serve) -> None:
    error = await refusal(serve(), request(tap="feature"))
    assert (error.field, error.reason) == (
        "tap",
        "backbone net has no output feature; it has features, embedding; did you mean features?",
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"tap": "features"}, "tap"), ({"classification": pb.Classification(top=1)}, "classification")],
)
async def test_tap_and_classification_go_with_a_backbone_only(serve: Serve, fields: dict[str, Any], field: str) -> None:
    error = await refusal(serve(), request(MaxPool2d(2), backbone="", **fields))
    assert (error.field, error.reason) == (field, "goes with a backbone only; set backbone, or leave it out")


async def test_a_request_without_a_backbone_needs_a_spec(serve: Serve) -> None:
    assert (await refusal(serve(), request(backbone=""))).reason == "must be 1 to 16 specs; got 0"


async def test_a_color_mode_does_not_go_with_a_backbone(serve: Serve) -> None:
    error = await refusal(serve(), request(image=pb.Image(color_mode=pb.COLOR_MODE_GRAY, data=b"GIF")))
    assert error.field == "image.color_mode"
    assert error.reason.startswith("must be left out: a backbone has its own color mode")


async def test_a_vector_is_not_pooled(serve: Serve) -> None:
    error = await refusal(serve(), request(MaxPool2d(2), tap="embedding"))
    assert (error.field, error.reason) == (
        "specs",
        "must be empty, because output embedding of backbone net is a vector; its feature maps are features",
    )


async def test_only_two_dimensional_specs_pool_a_feature_map(serve: Serve) -> None:
    error = await refusal(serve(), request(MaxPool2d(2), MaxPool1d(2)))
    assert (error.field, error.reason) == (
        "specs[1].spatial_dims",
        "must pool 2 dimensions, because output features of backbone net is a feature map (C, H, W) of shape "
        "[4, 2, 2]; MaxPool1d pools 1",
    )


async def test_a_window_that_does_not_fit_is_refused_with_the_shape_of_the_output(serve: Serve) -> None:
    error = await refusal(serve(), request(MaxPool2d(3)))
    assert error.field == "specs[0].max_pool.kernel_size"
    assert error.reason.endswith("; the input is output features of backbone net, of shape [4, 2, 2]")


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        (
            {"dtype": pb.DATA_TYPE_UINT8},
            "; got uint8; send the image file, which the server preprocesses, or preprocess",
        ),
        ({"shape": (8, 8, 3)}, r"; got [8, 8, 3]; move the channels in front of the height"),
        ({"shape": (2, 8, 8, 3)}, r"; got [2, 8, 8, 3]; move the channels in front of the height"),
        ({"shape": (3, 9, 8)}, r"; got [3, 9, 8]; send the image file, which the server resizes"),
        ({"shape": (1, 8, 8)}, r"; got [1, 8, 8]; its first dimension must be the 3 channels"),
        ({"shape": (8, 8)}, r"; got [8, 8]; its first dimension must be the 3 channels"),
        ({"shape": (1, 1, 3, 8, 8)}, r"; got [1, 1, 3, 8, 8]; it has 5 dimensions"),
    ],
)
async def test_a_tensor_that_the_backbone_does_not_take_is_refused_with_a_hint(
    serve: Serve, fields: dict[str, Any], ending: str
) -> None:
    error = await refusal(serve(), request(**fields))
    assert error.field == ("tensor.dtype" if "dtype" in fields else "tensor.shape")
    takes = "backbone net takes float32 of shape (3, 8, 8) or (N, 3, 8, 8), which is preprocessed"
    assert error.reason.startswith(takes + ending)


async def test_a_tensor_without_samples_is_refused(serve: Serve) -> None:
    assert (await refusal(serve(), request(shape=(0, 3, 8, 8)))).reason == "must have at least one sample"


@pytest.mark.parametrize("size", [12, 767, 769, 1536])
async def test_a_tensor_of_another_size_than_its_shape_is_refused(serve: Serve, size: int) -> None:
    wrong = request()
    wrong.tensor.data = bytes(size)
    error = await refusal(serve(), wrong)
    assert (error.field, error.reason) == ("tensor.data", f"has {size} bytes; shape [3, 8, 8] of float32 takes 768")


async def test_a_tensor_that_declares_more_samples_than_any_machine_holds_is_refused(serve: Serve) -> None:
    wrong = request()
    wrong.tensor.shape[:] = [2**62, 3, 8, 8]
    assert (await refusal(serve(), wrong)).field == "tensor.data"
    wrong.specs.append(to_message(MaxPool2d(2)))
    error = await refusal(serve(), wrong)
    assert error.field == "tensor.shape"
    assert "more than any machine holds" in error.reason


@pytest.mark.parametrize("value", ["0000c07f", "0000807f", "000080ff"], ids=["NaN", "inf", "-inf"])
async def test_a_tensor_with_values_that_are_not_finite_is_refused(
    serve: Serve, network: FakeNetwork, value: str
) -> None:
    wrong = request(shape=(2, 3, 8, 8))
    wrong.tensor.data = bytes(768 + 400) + bytes.fromhex(value) + bytes(768 - 404)
    error = await refusal(serve(), wrong)
    assert (error.field, error.reason) == (
        "tensor.data",
        "must have finite values only; sample 1 has NaN or infinite ones",
    )
    assert not network.batches


@pytest.mark.parametrize(
    ("classification", "field", "reason"),
    [
        ({"top": 101}, ".top", "must be at most 100; got 101"),
        ({"classes": range(101)}, ".classes", "may name at most 100 classes; got 101"),
        ({"classes": [2, 1, 2]}, ".classes", "must name each class once; 2 is repeated"),
        ({"activation_maps": True}, "", "must ask for at least one class: set top or classes"),
        ({"classes": [0, 3]}, ".classes[1]", "must be less than 3, the number of classes of backbone net; got 3"),
    ],
)
async def test_wrong_classes_are_refused(serve: Serve, classification: dict[str, Any], field: str, reason: str) -> None:
    error = await refusal(serve(), request(classification=pb.Classification(**classification)))
    assert (error.field, error.reason) == (f"classification{field}", reason)


async def test_classes_need_a_classification_head(serve: Serve) -> None:
    service = serve(backbones=backbones(backbone(labels=(), head_output="")))
    error = await refusal(service, request(classification=pb.Classification(top=1)))
    assert (error.field, error.reason) == ("classification", "backbone net has no classification head")


async def test_classes_go_with_one_sample(serve: Serve) -> None:
    error = await refusal(serve(), request(shape=(2, 3, 8, 8), classification=pb.Classification(top=1)))
    assert (error.field, error.reason) == (
        "classification",
        "goes with one sample; got 2; send each of them in a request of its own",
    )


@pytest.mark.parametrize(("tap", "gives"), [("embedding", "[4]"), ("features", "[2, 2, 2]")])
async def test_an_output_that_is_no_image_is_not_sent_as_one(serve: Serve, tap: str, gives: str) -> None:
    outputs = {"embedding": Output("vector", (4,)), "features": Output("map", (2, 2, 2))}
    service = serve(backbones=backbones(backbone(outputs=outputs)))
    error = await refusal(service, request(tap=tap, output=pb.OutputOptions(format=pb.OUTPUT_FORMAT_IMAGE)))
    assert error.field == "output.format"
    assert error.reason.endswith(f"of 1, 3 or 4 channels; output {tap} of backbone net gives {gives}")


async def test_an_image_that_cannot_be_preprocessed_is_refused_before_it_is_decoded(
    serve: Serve, network: FakeNetwork
) -> None:
    def decode(*_arguments: object, **_options: object) -> Any:
        raise AssertionError("no image may be decoded")

    preprocessing = backbone().preprocessing.model_copy(update={"resize": "none", "crop": "none"})
    service = serve(backbones=backbones(backbone(preprocessing=preprocessing)), decode=decode)
    # A GIF of 3 x 2 pixels.
    gif = bytes.fromhex(
        "474946383961 0300 0200 800000 000000 ffffff 2c 0000 0000 0300 0200 00 02 03 44 34 05 00 3b".replace(" ", "")
    )
    error = await refusal(service, request(image=pb.Image(data=gif)))
    assert error.field == "image.data"
    assert "3 x 2 pixels" in error.reason
    assert not network.batches


async def test_more_work_than_a_request_may_have_is_refused(serve: Serve) -> None:
    service = serve(max_request_seconds=0.01)
    assert await service.pool(Call(request(shape=(4, 3, 8, 8)).SerializeToString()))
    error = await refusal(service, request(shape=(6, 3, 8, 8)))
    assert "the request would take about 0.012 s of computing, more than the 0.01 s" in error.reason

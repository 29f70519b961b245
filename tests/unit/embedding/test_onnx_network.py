"""ONNX files as networks, small ones made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.embedding import onnx_network
from engine.embedding.networks import load_network
from engine.embedding.onnx_network import OnnxSettings
from engine.errors import DeviceError, InvalidInputError, SettingsError, WeightsError

SIZE_PX = 112
CELLS = 4
OPSET = 17
IR_VERSION = 10


def projection(dimension: int) -> NDArray[np.float32]:
    return np.random.default_rng(dimension).standard_normal((3 * CELLS**2, dimension)).astype(np.float32)


def write_model(
    path: Path,
    dimension: int = 128,
    shape: tuple[int | str, ...] = ("n", 3, SIZE_PX, SIZE_PX),
    output_shape: tuple[int | str, ...] | None = None,
) -> Path:
    """Average pool to 4x4 cells, then a seeded linear map; pixels come as `shape` says."""
    is_channels_first = shape[1] == 3
    step = SIZE_PX // CELLS
    nodes = [] if is_channels_first else [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])]
    nodes += [
        helper.make_node(
            "AveragePool",
            ["x" if is_channels_first else "t"],
            ["p"],
            kernel_shape=[step] * 2,
            strides=[step] * 2,
        ),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "projection",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(output_shape or (shape[0], dimension)))],
        [numpy_helper.from_array(projection(dimension), "w")],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), str(path))
    return path


def oracle(crops: NDArray[np.uint8], dimension: int, settings: OnnxSettings) -> NDArray[np.float64]:
    pixels = crops.astype(np.float64)
    if settings.channel_order == "bgr":
        pixels = pixels[..., ::-1]
    scaled = (pixels - np.asarray(settings.mean)) / settings.scale
    step = SIZE_PX // CELLS
    cells = scaled.reshape(len(crops), CELLS, step, CELLS, step, 3).mean(axis=(2, 4))
    vectors: NDArray[np.float64] = cells.transpose(0, 3, 1, 2).reshape(-1, 3 * CELLS**2) @ projection(
        dimension
    )
    return vectors


@pytest.fixture
def crops(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (5, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "shape",
    [
        ("n", 3, SIZE_PX, SIZE_PX),
        (1, 3, SIZE_PX, SIZE_PX),
        ("n", SIZE_PX, SIZE_PX, 3),
        (1, SIZE_PX, SIZE_PX, 3),
    ],
)
@pytest.mark.parametrize("dimension", [64, 512])
def test_both_layouts_and_both_batch_kinds_give_the_oracles_vectors(
    tmp_path: Path, crops: NDArray[np.uint8], shape: tuple[int | str, ...], dimension: int
) -> None:
    path = write_model(tmp_path / "net.onnx", dimension, shape)
    network = load_network(str(path), "cpu", num_threads=1)
    assert (network.dimension, network.device, network.alignment.name) == (dimension, "cpu", "arcface-112")
    for count in (0, 1, 5):
        vectors = network(crops[:count])
        assert vectors.shape == (count, dimension)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, oracle(crops[:count], dimension, OnnxSettings()), atol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": 0.0, "scale": 1.0, "channel_order": "bgr"},
        {"mean": [123.0, 117.0, 104.0], "scale": 64.0, "channel_order": "rgb"},
        {"mean": [104.0, 117.0, 123.0], "scale": 64.0, "channel_order": "bgr"},
    ],
)
def test_the_file_beside_it_says_how_pixels_are_scaled(
    tmp_path: Path, crops: NDArray[np.uint8], settings: dict[str, Any]
) -> None:
    path = write_model(tmp_path / "net.onnx")
    (tmp_path / "net.onnx.json").write_text(json.dumps({**settings, "threshold": 0.36, "mirror": True}))
    network = onnx_network.load(path, "cpu", num_threads=1)
    expected = oracle(crops, 128, onnx_network.read_sidecar(path))
    np.testing.assert_allclose(network(crops), expected, rtol=1e-4, atol=1e-2)
    assert (network.threshold, network.mirror) == (0.36, True)


def test_other_preprocessing_is_another_contract_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "net.onnx")
    names = {
        onnx_network.load(path, "cpu", 1, settings).name
        for settings in (
            OnnxSettings(),
            OnnxSettings(channel_order="bgr"),
            OnnxSettings(mean=0.0),
            OnnxSettings(mean=(1.0, 2.0, 3.0)),
            OnnxSettings(scale=128.0),
        )
    }
    assert len(names) == 5
    assert onnx_network.load(path, "cpu", 1).name == "onnx:rgb:mean=127.5:scale=127.5"


@pytest.mark.parametrize("dimension", [1, 63, 1025])
def test_outputs_that_are_no_templates_are_refused(tmp_path: Path, dimension: int) -> None:
    with pytest.raises(WeightsError, match=f"vectors of {dimension} numbers"):
        onnx_network.load(write_model(tmp_path / "net.onnx", dimension), "cpu", 1)


def test_an_output_size_that_follows_from_the_weights_need_not_be_stated(tmp_path: Path) -> None:
    path = write_model(tmp_path / "net.onnx", output_shape=("n", "d"))
    assert onnx_network.load(path, "cpu", 1).dimension == 128


def test_an_output_that_is_no_list_of_vectors_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "picture",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, SIZE_PX, SIZE_PX])],
    )
    path = tmp_path / "net.onnx"
    opsets = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), str(path))
    with pytest.raises(WeightsError, match=r"one float32 output \[n, d\]"):
        onnx_network.load(path, "cpu", 1)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, SIZE_PX, SIZE_PX),
        ("n", 3, "h", "w"),
        ("n", 3, SIZE_PX, 2 * SIZE_PX),
        ("n", SIZE_PX, SIZE_PX, 4),
    ],
)
def test_inputs_of_another_kind_are_refused_saying_what_is_needed(
    tmp_path: Path, shape: tuple[int | str, ...]
) -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3] if shape[1] == 3 else [1, 2], keepdims=0)
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "net.onnx"
    opsets = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), str(path))
    with pytest.raises(WeightsError, match=r"one float32 input \[n or 1, 3, s, s\]"):
        onnx_network.load(path, "cpu", 1)


@pytest.mark.parametrize("content", [b"", b"no ONNX at all"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"net\.onnx"):
        onnx_network.load(path, "cpu", 1)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"means": 0}', "did you mean `mean`"),
        ('{"mean": "grey"}', "mean"),
        ('{"channel_order": "grb"}', "channel_order"),
        ("[1]", "one JSON object"),
        ("{", "not valid JSON"),
        ('{"scale": 0}', "scale not 0"),
        ('{"threshold": 3}', "no similarity"),
        ('{"alignment": "sideways"}', "sideways"),
        ('{"alignment": "dlib-150"}', "takes 112 px, not the dlib-150 crop"),
    ],
)
def test_a_wrong_file_beside_it_is_refused_naming_the_key(tmp_path: Path, text: str, what: str) -> None:
    path = write_model(tmp_path / "net.onnx")
    (tmp_path / "net.onnx.json").write_text(text)
    with pytest.raises(SettingsError, match=what):
        onnx_network.load(path, "cpu", 1)


def test_crops_of_another_size_are_refused(tmp_path: Path) -> None:
    network = onnx_network.load(write_model(tmp_path / "net.onnx"), "cpu", 1)
    with pytest.raises(InvalidInputError, match="112, 112"):
        network(np.zeros((1, 96, 96, 3), np.uint8))


def test_cuda_without_its_provider_is_a_device_error(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has CUDA")
    with pytest.raises(DeviceError, match="CUDAExecutionProvider"):
        onnx_network.load(write_model(tmp_path / "net.onnx"), "cuda", 1)


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"pip install 'identiface\[onnx\]'"):
        onnx_network.load(path, "cpu", 1)

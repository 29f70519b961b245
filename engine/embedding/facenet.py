"""The one door to facenet_pytorch: MTCNN's three nets and InceptionResnetV1. Knows nothing of pictures.

facenet_pytorch imports torchvision, and torchvision cannot be imported where its compiled operators do not
load: PyPI's build of torchvision is linked against CUDA, and beside a CPU build of torch its import ends
with "operator torchvision::nms does not exist". In that case, and in no other, the operator is defined here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.errors import OperatorError

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""The operators that torchvision's import expects, as torchvision/csrc/ops/nms.cpp declares them. Only the
first is given a kernel: quantised boxes, which the second is for, are used by nobody here."""


def suppress(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression with the meaning of torchvision.ops.nms.

    `dets` float[n, 4] are x1, y1, x2, y2; answers int64[k], the boxes kept, best score first: a box goes
    when its intersection over union with a better one that stays is above the threshold.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes = dets[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    is_gone = torch.zeros(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if is_gone[i]:
            continue
        rest = boxes[i + 1 :]
        low = torch.maximum(boxes[i, :2], rest[:, :2])
        high = torch.minimum(boxes[i, 2:], rest[:, 2:])
        common = (high - low).clamp(min=0).prod(dim=1)
        is_gone[i + 1 :] |= common / (areas[i] + areas[i + 1 :] - common) > iou_threshold
    return order[~is_gone]


def _has_loadable_operators() -> bool:
    """Tell whether torchvision's compiled operators load beside this build of torch."""
    if torch.version.cuda is not None or getattr(torch.version, "hip", None) is not None:
        return True  # A GPU build with a torchvision that does not load is a fault to be seen, not hidden.
    if "torchvision" in sys.modules:
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise OperatorError("torchvision is not installed: install it beside torch")
    folder = Path(spec.submodule_search_locations[0])
    libraries = [path for path in folder.glob("_C*") if path.suffix in {".so", ".pyd"}]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return bool(libraries)


def _define_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    library.impl("nms", suppress, "CPU")  # type: ignore[no-untyped-call]
    import torchvision.extension

    # torchvision.ops asks this before it calls the operator, which is there now.
    torchvision.extension._has_ops = lambda: True
    return library


# Kept for the life of the process: an operator goes when its library object does.
_LIBRARY = None if _has_loadable_operators() else _define_operators()

from facenet_pytorch import InceptionResnetV1  # noqa: E402  (after torchvision is made to load)
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet  # noqa: E402

if TYPE_CHECKING:
    from torch import nn


def proposal_net() -> nn.Module:
    """MTCNN's first net with its weights: windows of 12 px, any number at once (fully convolutional)."""
    return _frozen(PNet())


def refinement_net() -> nn.Module:
    """MTCNN's second net with its weights: crops of 24 px."""
    return _frozen(RNet())


def output_net() -> nn.Module:
    """MTCNN's third net with its weights: crops of 48 px, and five keypoints."""
    return _frozen(ONet())


def _frozen(net: nn.Module) -> nn.Module:
    return net.eval().requires_grad_(requires_grad=False)


__all__ = ["InceptionResnetV1", "output_net", "proposal_net", "refinement_net", "suppress"]

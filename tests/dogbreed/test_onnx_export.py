"""Networks are exported to ONNX, and left as they were."""

import gc

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from dogbreed.onnx_export import to_onnx


def test_an_export_computes_the_same_and_leaves_network_and_collector_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(inplace=True), nn.Flatten(), nn.SiLU(inplace=True)).eval()
    images = torch.randn(2, 3, 4, 4)
    content = to_onnx(network, images).model_proto.SerializeToString()
    assert [getattr(part, "inplace", None) for part in network] == [None, True, None, True]
    assert gc.isenabled()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(found), network(images), rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_exported_is_left_as_it_was() -> None:
    class Refuses(nn.ReLU):
        def forward(self, images: Tensor) -> Tensor:
            raise ValueError("no export of this")

    network = Refuses(inplace=True).eval()
    with pytest.raises(Exception, match="no export of this"):
        to_onnx(network, torch.zeros(1))
    assert network.inplace
    assert gc.isenabled()

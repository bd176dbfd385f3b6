import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import set_quant
from spaceevo.runtimes.plain import save_plain, to_plain
from spaceevo.runtimes.plain_network import load


@pytest.fixture
def reference(network: Network, images: Tensor) -> Tensor:
    """Logits of the network in fp32."""
    set_quant(network, False)
    try:
        with torch.no_grad():
            return network(images)
    finally:
        set_quant(network, True)


@torch.no_grad()
def test_plain_network_equals_the_network(network: Network, images: Tensor, reference: Tensor, tmp_path: Path) -> None:
    plain = to_plain(network, {"subnet": "smallest"})
    torch.testing.assert_close(plain(images), reference, rtol=0, atol=1e-5)
    files = save_plain(plain, tmp_path / "subnet_fp32.json")
    assert sorted(path.name for path in files) == ["plain_network.py", "subnet_fp32.json", "subnet_fp32.safetensors"]
    read = load(tmp_path / "subnet_fp32.json")
    assert torch.equal(read(images), plain(images))
    assert read.config["metadata"] == {"subnet": "smallest"}
    assert set(read.state_dict()) <= set(network.state_dict())


def test_exported_folder_needs_no_package_of_ours(
    network: Network, images: Tensor, reference: Tensor, tmp_path: Path
) -> None:
    save_plain(to_plain(network), tmp_path / "subnet_fp32.json")
    torch.save({"images": images, "logits": reference}, tmp_path / "case.pt")
    script = (
        "import sys; sys.modules['spaceevo'] = None\n"
        "import torch; from plain_network import load\n"
        "case = torch.load('case.pt', weights_only=True)\n"
        "with torch.no_grad(): logits = load('subnet_fp32.json')(case['images'])\n"
        "assert torch.allclose(logits, case['logits'], atol=1e-5)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_images_of_other_sizes_are_resized(network: Network, images: Tensor) -> None:
    plain, large = to_plain(network), torch.nn.functional.interpolate(images[:4], (40, 40), mode="bicubic")
    set_quant(network, False)
    try:
        with torch.no_grad():
            torch.testing.assert_close(plain(large), network(large), rtol=0, atol=1e-5)
    finally:
        set_quant(network, True)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="format None; this reads spaceevo.plain"):
        load(tmp_path / "other.json")

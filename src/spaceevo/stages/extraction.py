"""Subnets with statistics of their own, taken out of a trained supernet: kept by the search, taken up by the export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts import Front, Plain, fingerprint
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.nn.evaluate import calibrate_subnet
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.subnets import read_subnet, save_subnet
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.selection import SupernetSource

DECIDING = ("superspace.", "data.")
"""Settings that decide, besides the supernet's weights and the images, what a subnet computes."""


@dataclass(frozen=True)
class Extraction:
    """Takes subnets out of a supernet, batch norm recalibrated on the calibration images."""

    source: SupernetSource  # the supernet
    data: ImageFolderDataModule  # the images
    identity: Mapping[str, Plain]  # settings of the job by dotted name

    def fingerprint(self, int8: bool) -> str:
        """Hash all that decides what a subnet computes: the supernet's weights, the images, how these are prepared."""
        settings = {name: value for name, value in self.identity.items() if name.startswith(DECIDING)}
        weights = [
            read.state(None) for read in self.source.input(int8).values()
        ] or f"random {self.source.settings.seed}"
        quant = self.source.settings.quant if int8 else "off"
        return fingerprint([settings, str(self.source.selection.member), quant, weights, self.data.content_hash])

    def extract(self, supernet: Supernet, spec: SubnetSpec) -> Network:
        """Recalibrate a subnet and copy it out of its supernet."""
        calibrate_subnet(supernet, spec, self.data.calibration_images())
        return supernet.extract(spec).cpu()

    def save(self, path: Path, supernet: Supernet, spec: SubnetSpec, *, int8: bool) -> Network:
        """Extract a subnet into a checkpoint that needs no supernet; return it."""
        network, quant = self.extract(supernet, spec), self.source.settings.quant if int8 else "off"
        member, classes = self.source.selection.member, self.data.classes
        save_subnet(path, network, member, spec, classes, quant, self.fingerprint(int8))
        return network

    def kept(self, spec: SubnetSpec, *, int8: bool) -> Path | None:
        """Find the checkpoint of a subnet that the last search kept; None where it was of other weights or images."""
        file = self.source.selection.front_file
        for row in Front.read(file).front if file.exists() else ():
            path = Path((row.int8_file if int8 else row.fp32_file) or "")
            if row.subnet == str(spec) and path.is_file():
                recorded = read_checkpoint(path, "subnet").meta.fingerprint
                return path if recorded == self.fingerprint(int8) else None
        return None

    def read(self, path: Path) -> Network:
        """Read a kept checkpoint."""
        selection = self.source.selection
        return read_subnet(path, selection.superspace, selection.workspace.commands("subnet_search")).network

"""Subnets with statistics of their own, taken out of a trained supernet: kept by the search, taken up by the export."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from spaceevo.artifacts import Plain, fingerprint
from spaceevo.errors import ExportError, choices
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.nn.deployable import make_deployable
from spaceevo.nn.evaluate import calibrate_subnet
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.subnets import Subnet, read_subnet, save_subnet
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
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
        weights: Plain = [read.state(None) for read in self.source.input(int8).values()]
        weights = weights or f"random {self.source.settings.seed}"
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
        selection = self.source.selection
        command = selection.workspace.commands("subnet_search", f"space={selection.member}")
        for row in selection.front().front if selection.front_file.exists() else ():
            path = Path((row.int8_file if int8 else row.fp32_file) or "")
            if row.subnet == str(spec) and path.is_file():
                recorded = read_checkpoint(path, "subnet", command).meta.fingerprint
                return path if recorded == self.fingerprint(int8) else None
        return None

    def network(self, spec: SubnetSpec, *, int8: bool) -> Network:
        """Read what the last search kept of a subnet, or extract it.

        Raises:
            MissingArtifactError: the supernet has not been trained; names the command.
        """
        path, selection = self.kept(spec, int8=int8), self.source.selection
        if path is None:
            return self.extract(self.source.supernet(int8), spec)
        return read_subnet(path, selection.superspace, selection.workspace.commands("subnet_search")).network


@dataclass(frozen=True)
class Subject:
    """Holds all that is exported of a subnet."""

    member: SpaceMember  # its space
    spec: SubnetSpec  # its encoding
    trained: Network  # the INT8 network as it was trained
    int8: Network  # it under `deploy`; the same unless it was trained under `published`
    fp32: Network  # its fp32 twin
    quant: str  # the scheme under which it was trained
    ranges: str = ""  # how the ranges were found that a network under `published` lacks

    @classmethod
    def given(cls, subnet: Subnet, path: Path | None, classes: Sequence[str]) -> Subject:
        """Prepare a subnet that has a checkpoint of its own; its fp32 twin has the same weights in floating point.

        Raises:
            ExportError: it was not trained under `deploy`, or on other classes.
        """
        if subnet.quant != "deploy":
            raise ExportError(f"{path} is of quant={subnet.quant}; export needs quant=deploy")
        if subnet.classes != tuple(classes):
            raise ExportError(
                f"{path} knows the classes {choices(subnet.classes)}, the data {choices(classes)}; "
                "set data=… or data.root=… to what it was finetuned on"
            )
        fp32 = copy.deepcopy(subnet.network)
        set_quant(fp32, False)
        return cls(subnet.member, subnet.spec, subnet.network, subnet.network, fp32, subnet.quant)

    @classmethod
    def extracted(cls, extraction: Extraction, spec: SubnetSpec, calibration_images: int) -> Subject:
        """Take a subnet out of its supernets; so many images give it the ranges that one under `published` lacks."""
        source = extraction.source
        trained = int8 = extraction.network(spec, int8=True)
        ranges = ""
        if source.settings.quant == "published":
            images = torch.cat(list(extraction.data.calibration_images()))[:calibration_images]
            int8, calibrated = make_deployable(trained, images)
            ranges = f"calibrated on {len(images)} images: {', '.join(calibrated)}"
        fp32 = extraction.network(spec, int8=False)
        return cls(source.selection.member, spec, trained, int8, fp32, source.settings.quant, ranges)

    @cached_property
    def program(self) -> Program:
        """The integer program of `int8`."""
        resolution = self.spec.resolution
        return to_program(self.int8, (self.member.superspace.input_channels, resolution, resolution))

    def metadata(self, classes: Sequence[str], preprocessing: Preprocessing) -> dict[str, str]:
        """Return what the files say of themselves."""
        told = {
            "space": str(self.member),
            "subnet": str(self.spec),
            "resolution": str(self.spec.resolution),
            "classes": ",".join(classes),
            "preprocessing": preprocessing.text(),
            "quant": self.quant,
        }
        return told | ({"ranges": self.ranges} if self.ranges else {})

"""Subnets with statistics of their own, taken out of a trained supernet: kept by the search, taken up by the export."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spaceevo.artifacts import Plain, fingerprint
from spaceevo.errors import ConfigError
from spaceevo.lit.matching import evaluation_settings
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.deployable import make_deployable
from spaceevo.nn.evaluate import calibrate_subnet
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.subnets import Subnet, read_subnet
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program
from spaceevo.quant.quantizer import is_deployable
from spaceevo.runtimes.base import Shape
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.selection import SupernetBasedJob
from spaceevo.stages.settings import SupernetSettings
from spaceevo.terminal import console

DECIDING = ("superspace.", "data.")
"""Settings that decide, besides the supernet's weights and the images, what a subnet computes."""


@dataclass(frozen=True)
class Extraction:
    """Takes subnets out of a supernet, batch norm recalibrated on the calibration images."""

    job: SupernetBasedJob[SupernetSettings]  # whose supernet, images and settings

    def fingerprint(self, int8: bool) -> str:
        """Hash all that decides what a subnet computes: the supernet's weights, the images, how these are prepared."""
        job = self.job
        settings = {name: value for name, value in job.identity.items() if name.startswith(DECIDING)}
        weights: Plain = [read.state(None) for read in job.supernet_inputs(int8).values()]
        weights = weights or f"random {job.settings.seed}"
        quant = job.settings.quant if int8 else "off"
        return fingerprint([settings, str(job.member), quant, weights, job.data.content_hash])

    def extract(self, supernet: Supernet, spec: SubnetSpec) -> Network:
        """Recalibrate a subnet and copy it out of its supernet."""
        calibrate_subnet(supernet, spec, self.job.data.calibration_images())
        return supernet.extract(spec).cpu()

    def save(self, path: Path, supernet: Supernet, spec: SubnetSpec, *, int8: bool) -> Network:
        """Extract a subnet into a checkpoint that needs no supernet; return it."""
        network, job = self.extract(supernet, spec), self.job
        meta = CheckpointMeta(
            space=str(job.member),
            subnet=str(spec),
            classes=job.classes,
            transform=evaluation_settings(job.data),
            quant=job.settings.quant if int8 else "off",
            fingerprint=self.fingerprint(int8),
        )
        save_checkpoint(path, network, meta)
        return network

    def kept(self, spec: SubnetSpec, *, int8: bool) -> Path | None:
        """Find the checkpoint of a subnet that the last search kept; None where it was of other weights or images."""
        command = self.job.workspace.commands("subnet_search", f"space={self.job.member}")
        for row in self.job.front().front if self.job.front_file.exists() else ():
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
        path, job = self.kept(spec, int8=int8), self.job
        if path is None:
            return self.extract(job.supernet(int8), spec)
        return read_subnet(path, job.superspace, job.workspace.commands("subnet_search")).network

    def has_fp32(self, spec: SubnetSpec) -> bool:
        """Tell whether a subnet has weights that were trained in fp32, or random ones."""
        job = self.job
        is_there = job.settings.weights == "random" or job.supernet_file(int8=False).exists()
        return is_there or self.kept(spec, int8=False) is not None

    def in_int8(self, trained: Network, calibration_images: int) -> Int8Form:
        """Convert a network; so many images give it the ranges that one under `published` lacks."""
        network, job, ranges, quant = trained, self.job, "", self.job.settings.quant
        if not is_deployable(quant):
            images = torch.cat(list(job.data.calibration_images()))[:calibration_images]
            network, calibrated = make_deployable(trained, images)
            quant = "deploy"
            ranges = f"calibrated on {len(images)} images: {', '.join(calibrated)}"
        shape = (job.superspace.input_channels, network.resolution, network.resolution)
        return Int8Form(trained, network, to_program(network, shape), quant, ranges)


@dataclass(frozen=True)
class Int8Form:
    """Holds a subnet in INT8."""

    trained: Network  # as it was trained
    network: Network  # under a deployable scheme; the same unless it was trained under `published`
    program: Program  # what that computes
    quant: str  # that scheme
    ranges: str = ""  # how the ranges were found that a network under `published` lacks


@dataclass(frozen=True)
class Subject:
    """Holds all that is exported of a subnet."""

    member: SpaceMember  # its space
    spec: SubnetSpec  # its encoding
    fp32: Network  # it, or its twin, in fp32
    quant: str  # the scheme under which it was trained
    int8: Int8Form | None  # it in INT8; None under `off`

    @classmethod
    def given(cls, extraction: Extraction, subnet: Subnet, calibration_images: int) -> Subject:
        """Prepare a subnet that has a checkpoint of its own; its fp32 twin has the same weights in floating point.

        Raises:
            ConfigError: it was trained under another scheme than `quant`.
        """
        job = extraction.job
        if subnet.quant != job.settings.quant:
            told = f"{job.settings.checkpoint} was trained under quant={subnet.quant}, not {job.settings.quant}"
            raise ConfigError(f"{told}; set quant={subnet.quant}")
        fp32 = _in_float(subnet.network)
        int8 = extraction.in_int8(subnet.network, calibration_images) if subnet.quant != "off" else None
        return cls(subnet.member, subnet.spec, fp32, subnet.quant, int8)

    @classmethod
    def extracted(cls, extraction: Extraction, spec: SubnetSpec, calibration_images: int) -> Subject:
        """Take a subnet out of its supernets; so many images give it the ranges that one under `published` lacks."""
        job, int8 = extraction.job, None
        if job.settings.int8:
            int8 = extraction.in_int8(extraction.network(spec, int8=True), calibration_images)
        if int8 is None or extraction.has_fp32(spec):
            fp32 = extraction.network(spec, int8=False)
        else:
            console.print(f"no fp32 supernet {job.member} is there: fp32 files have the weights of the INT8 network")
            fp32 = _in_float(int8.trained)
        return cls(job.member, spec, fp32, job.settings.quant, int8)

    @property
    def input_shape(self) -> Shape:
        """Channels, height and width of the images that it takes."""
        return self.member.superspace.input_channels, self.spec.resolution, self.spec.resolution

    def metadata(self, classes: Sequence[str], preprocessing: Preprocessing) -> dict[str, str]:
        """Return what the files say of themselves."""
        told = {
            "space": str(self.member),
            "subnet": str(self.spec),
            "resolution": str(self.spec.resolution),
            "classes": json.dumps(list(classes), ensure_ascii=False),
            "preprocessing": preprocessing.text(),
            "quant": self.quant,
        }
        return told | ({"ranges": self.int8.ranges} if self.int8 is not None and self.int8.ranges else {})


def _in_float(network: Network) -> Network:
    """Copy a network that computes with the same weights in floating point."""
    twin = copy.deepcopy(network)
    set_quant(twin, False)
    return twin

"""What is exported: a subnet as it was trained, as an integer program, and in fp32."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spaceevo.errors import ExportError, choices
from spaceevo.nn.deployable import make_deployable
from spaceevo.nn.subnets import Subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.extraction import Extraction


@dataclass(frozen=True)
class Subject:
    """Holds all that is exported."""

    member: SpaceMember  # its space
    spec: SubnetSpec  # the subnet
    trained: Network  # the INT8 network as it was trained
    int8: Network  # it under `deploy`; the same unless it was trained under `published`
    fp32: Network  # its fp32 twin
    program: Program  # the integer program of `int8`
    metadata: Mapping[str, str]  # what the files say of themselves


def given_subject(given: Subnet, path: str, classes: Sequence[str], preprocessing: Preprocessing) -> Subject:
    """Prepare a subnet that has a checkpoint of its own; its fp32 twin has the same weights in floating point.

    Args:
        given: the subnet.
        path: its checkpoint, for messages.
        classes: names of the images' classes.
        preprocessing: what the files say of it.

    Raises:
        ExportError: it was not trained under `deploy`, or on other classes.
    """
    if given.quant != "deploy":
        raise ExportError(f"{path} is of quant={given.quant}; export needs quant=deploy")
    if given.classes != tuple(classes):
        raise ExportError(
            f"{path} knows the classes {choices(given.classes)}, the data {choices(classes)}; "
            "set data=… or data.root=… to what it was finetuned on"
        )
    fp32 = copy.deepcopy(given.network)
    set_quant(fp32, False)
    metadata = _metadata(given.member, given.spec, classes, preprocessing, given.quant)
    program = to_program(given.network, _shape(given.member, given.spec))
    return Subject(given.member, given.spec, given.network, given.network, fp32, program, metadata)


@dataclass(frozen=True)
class SubjectSource:
    """Prepares a subnet of supernets, INT8 and fp32."""

    extraction: Extraction  # takes it out of them
    kept: Mapping[str, Path]  # its checkpoints by precision, `int8` and `fp32`, where it was taken out before
    preprocessing: Preprocessing  # what the files say of it

    def subject(self, spec: SubnetSpec, calibration_images: int) -> Subject:
        """Prepare a subnet; so many images give it the ranges that a network under `published` lacks.

        Raises:
            MissingArtifactError: a supernet has not been trained; names the command.
            CheckpointError: its file is broken.
        """
        source, data = self.extraction.source, self.extraction.data
        member, quant = source.selection.member, source.settings.quant
        trained = int8 = self._network(spec, "int8")
        metadata = _metadata(member, spec, data.classes, self.preprocessing, quant)
        if quant == "published":
            images = torch.cat(list(data.calibration_images()))[:calibration_images]
            int8, calibrated = make_deployable(trained, images)
            metadata["ranges"] = f"calibrated on {len(images)} images: {', '.join(calibrated)}"
        program, fp32 = to_program(int8, _shape(member, spec)), self._network(spec, "fp32")
        return Subject(member, spec, trained, int8, fp32, program, metadata)

    def _network(self, spec: SubnetSpec, precision: str) -> Network:
        if precision in self.kept:
            return self.extraction.read(self.kept[precision])
        return self.extraction.extract(self.extraction.source.supernet(int8=precision == "int8"), spec)


def _metadata(
    member: SpaceMember, spec: SubnetSpec, classes: Sequence[str], preprocessing: Preprocessing, quant: str
) -> dict[str, str]:
    return {
        "space": str(member),
        "subnet": str(spec),
        "resolution": str(spec.resolution),
        "classes": ",".join(classes),
        "preprocessing": preprocessing.text(),
        "quant": quant,
    }


def _shape(member: SpaceMember, spec: SubnetSpec) -> tuple[int, int, int]:
    return (member.superspace.input_channels, spec.resolution, spec.resolution)

"""A supernet with weights: trained here, released, or random."""

from __future__ import annotations

from pathlib import Path

import torch

from spaceevo.errors import CheckpointError, ConfigError, MissingArtifactError
from spaceevo.nn.checkpoint import load_state
from spaceevo.nn.foreign import read_foreign
from spaceevo.nn.released import is_released, load_parsed, parse_released
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import float_state, set_quant
from spaceevo.space.superspace import SpaceMember


def random_supernet(member: SpaceMember, quant: str, *, int8: bool, seed: int) -> Supernet:
    """A supernet that has not been trained, in eval mode: what does not depend on weights can be tried with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(member, quant)
    set_quant(supernet, int8)
    return supernet.eval()


def trained_supernet(member: SpaceMember, quant: str, path: Path, *, int8: bool, command: str) -> Supernet:
    """A supernet with the weights of a file, one of ours or a released one, in eval mode.

    Args:
        member: the space.
        quant: scheme, `deploy` or `published`.
        path: the file.
        int8: whether quantisers are on; the file must then hold INT8 weights of this scheme.
        command: makes such a file, for messages.

    Raises:
        MissingArtifactError: the file is not there.
        CheckpointError: it is broken, holds code, or belongs to another network.
        ConfigError: its INT8 weights were trained under another scheme, or it holds none.
    """
    if not path.is_file():
        raise MissingArtifactError(f"{'INT8' if int8 else 'fp32'} supernet {member}", path, command)
    content = read_foreign(path)
    supernet = Supernet(member, quant)
    if is_released(content):
        released = parse_released(content, path)
        if int8:
            _check_scheme(path, quant, "published" if released.int8 else "off")
        load_parsed(supernet, released, path)
    else:
        meta = content["meta"]
        if meta.get("space", str(member)) != str(member):
            raise CheckpointError(f"{path} is of space {meta['space']}, not {member}; set space={meta['space']}")
        if int8:
            _check_scheme(path, quant, str(meta.get("quant")))
        state = content["state_dict"]
        load_state(supernet, state if int8 else float_state(state), path, strict=int8)
    set_quant(supernet, int8)
    return supernet.eval()


def holds_subnet(path: Path) -> bool:
    """Whether a file is a subnet's own checkpoint, not a supernet's.

    Raises:
        CheckpointError: it is broken, or holds code.
    """
    content = read_foreign(path)
    return not is_released(content) and "subnet" in content["meta"]


def _check_scheme(path: Path, wanted: str, trained: str) -> None:
    if trained != wanted:
        raise ConfigError(f"{path} was trained under quant={trained}, not {wanted}; use quant={trained}")

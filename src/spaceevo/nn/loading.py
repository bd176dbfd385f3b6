"""The one way that weights are read: ours, released pickles and safetensors, of whatever network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spaceevo.artifacts import is_as_sealed, require_undamaged
from spaceevo.errors import CheckpointError, ConfigError, MissingArtifactError, choices
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.finite import check_weights
from spaceevo.nn.foreign import read_foreign
from spaceevo.nn.released import Loaded, Released, State, load_parsed, parse_released
from spaceevo.quant.prepare import float_state, set_quant


@dataclass(frozen=True)
class Checkpoint:
    """Holds weights that were read, and what is known of them; those of a `released` file have published names."""

    path: Path
    meta: CheckpointMeta
    state: State
    released: Released | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of the network's classes, as far as the file says."""
        told = self.released.classes if self.released else self.meta.settings.get("num_classes")
        return told if isinstance(told, int) else len(self.meta.classes) or None

    def require_quant(self, quant: str) -> None:
        """Check that the weights were trained in INT8 under this scheme."""
        trained = self.meta.quant or "off"
        if trained != quant:
            raise ConfigError(f"{self.path} was trained under quant={trained}, not {quant}; use quant={trained}")

    def load_into(self, network: nn.Module, *, int8: bool) -> None:
        """Put the weights into a network, with its quantisers if `int8`, which are on then and off otherwise.

        Without `int8`, quantisers stay as they are, whatever the file holds of them. A CheckpointError names what does
        not fit, where the file belongs to another network.
        """
        if self.released is not None:
            load_parsed(network, self.released, self.path)
        elif int8:
            load_state(network, self.state, self.path)
        else:
            own = network.state_dict()
            own_quantisers = {key: own[key] for key in own.keys() - float_state(own).keys()}
            load_state(network, own_quantisers | float_state(self.state), self.path)
        set_quant(network, int8)


def read_checkpoint(path: Path, what: str, command: str = "") -> Checkpoint:
    """Read weights from one of our files, a released pickle or `.safetensors`, executing nothing of it.

    Messages say `what` it is to hold, and the `command` that makes it.

    Raises:
        MissingArtifactError: the file is not there.
        CheckpointError: it is truncated, holds code, nan or infinity, or has no known format; or it is not there and
            there is no `command`.
    """
    if not path.is_file() and command:
        raise MissingArtifactError(what, path, command)
    try:
        checkpoint = _read(path)
        check_weights(checkpoint.state, str(path))
        return checkpoint
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {error}" + (f"; make it again with: {command}" if command else "")) from None


def _read(path: Path) -> Checkpoint:
    if not path.is_file():
        raise CheckpointError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    if path.suffix == ".safetensors":
        require_undamaged(path, "python -m spaceevo +stage=export")
        try:
            return Checkpoint(path, CheckpointMeta(quant="off"), load_file(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file ({error}); export it again") from None
    if is_as_sealed(path) is False:
        raise CheckpointError(f"checkpoint {path} is damaged: it is not as it was written; make or fetch it again")
    content = read_foreign(path)
    if not {"state_dict", "meta"} <= content.keys():
        released = parse_released(content, path)
        meta = CheckpointMeta(quant="published" if released.int8 else "off", epochs=released.epochs)
        return Checkpoint(path, meta, released.state, released)
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is no checkpoint: its state_dict holds more than tensors")
    try:
        return Checkpoint(path, CheckpointMeta.from_plain(content["meta"]), dict(state))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_released(path: Path) -> Released:
    """Read a released checkpoint; one of ours is refused."""
    released = read_checkpoint(path, "released file").released
    if released is None:
        raise CheckpointError(f"{path} is no released checkpoint but one of ours; it can be used as it is")
    return released


def load_released(network: nn.Module, path: str | Path) -> Loaded:
    """Load a released checkpoint into one of our networks.

    A network under `quant="published"` takes the quantisers' values; those of layers that never ran in INT8 stay
    uninitialised. One under `quant="deploy"` takes the weights alone: its quantisers are others.

    Args:
        network: a supernet, an extracted subnet, a student, or a teacher (timm's EfficientNet, prepared or not).
        path: the file.

    Raises:
        CheckpointError: the file is broken, holds code, or belongs to another network; names what does not fit.
    """
    return load_parsed(network, read_released(Path(path)), Path(path))


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, *, strict: bool = True) -> None:
    """Load tensors by name; without `strict`, those that are not given keep their values.

    A CheckpointError names the first ones that do not fit.
    """
    own = module.state_dict()
    wrong = [
        f"{name} {tuple(value.shape)} here {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    wrong += [f"{name} is not in this network" for name in state if name not in own]
    wrong += [f"{name} is missing" for name in own if strict and name not in state]
    if wrong:
        raise CheckpointError(f"{path} belongs to another network: {choices(wrong, limit=3)}")
    module.load_state_dict(state, strict=False)

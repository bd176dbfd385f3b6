"""What a block type is: a recipe of layers and the data flow through them."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, TypeVar

from spaceevo.errors import ConfigError, choices
from spaceevo.space.spec import Activation, BlockSpec, Layer, Recipe, round_channels

T = TypeVar("T")


class Run(Protocol[T]):
    """Runs the layer of this name on its inputs; a layer that the active recipe lacks returns its first input.

    The same data flow thus serves tensors (`nn.block`), sizes and costs (`space.walk`) and integer programs.
    """

    def __call__(self, name: str, /, *inputs: T) -> T:
        """Run layer `name`."""
        ...


class BlockType(ABC):
    """Defines a family of blocks: subclasses write `recipe` and `forward`, everything else derives from the two."""

    name: ClassVar[str]
    has_expand: ClassVar[bool] = True
    is_head: ClassVar[bool] = False  # Heads have one width and stand outside the subnet encoding
    squeezes_own_channels: ClassVar[bool] = False
    """Whether squeeze-and-excitation, where a block has it, narrows to a quarter of the channels that it scales."""

    @abstractmethod
    def recipe(self, spec: BlockSpec) -> Recipe:
        """List every layer that the block has for `spec`, with all sizes; layers it does not have are absent."""

    @abstractmethod
    def forward(self, run: Run[T], x: T) -> T:
        """Lead the input through the named layers; of two that `add` joins, the main branch comes first."""

    def key(self, spec: BlockSpec, hw: int) -> str:
        """Write the key of published latency tables: `<Type>Block_<hw>_<cin>_<cout>_<k>_<expand>_<stride>_<act>`."""
        sizes = f"{hw}_{spec.cin}_{spec.cout}_{spec.kernel}"
        return f"{self.name}Block_{sizes}_{self.key_expand(spec.expand)}_{spec.stride}_{spec.act}"

    def key_expand(self, expand: float | None) -> str:
        """Write the expand ratio for the latency key, as published tables do: most types' whole ratios as integers."""
        return f"{expand:g}" if expand is not None else "None"


_REGISTRY: dict[str, BlockType] = {}


def register(cls: type[BlockType]) -> type[BlockType]:
    """Make a block type known to superspaces, networks and exports under its `name`, its class's unless it sets one."""
    if "name" not in vars(cls):
        cls.name = cls.__name__
    _REGISTRY[cls.name] = cls()
    return cls


def block_types() -> dict[str, BlockType]:
    """List all registered block types by name."""
    return dict(_REGISTRY)


def block_type(name: str) -> BlockType:
    """Look a block type up."""
    if name not in _REGISTRY:
        raise ConfigError(f"unknown block type '{name}'; allowed: {choices(sorted(_REGISTRY))}")
    return _REGISTRY[name]


def conv(cin: int, cout: int, kernel: int = 1, stride: int = 1, act: Activation = "none") -> Layer:
    """Make a convolution with batch norm and activation."""
    return Layer("conv", cin, cout, kernel, stride, act)


def depthwise(channels: int, kernel: int, stride: int = 1, act: Activation = "none", stack: int = 1) -> Layer:
    """Make one depthwise convolution, or a stack of them, with batch norm and activation."""
    return Layer("depthwise", channels, channels, kernel, stride, act, stack=stack)


def shortcut_recipe(spec: BlockSpec, project: bool, act: Activation = "none") -> Recipe:
    """List the layers of the residual: identity where sizes allow, else (if `project`) a 1×1 convolution, else none."""
    add = {"add": Layer("add", spec.cout, spec.cout, act=act)}
    if spec.stride == 1 and spec.cin == spec.cout:
        return add
    return {"shortcut": conv(spec.cin, spec.cout, 1, spec.stride), **add} if project else {}


def squeeze_excite_recipe(channels: int, squeezed_from: int) -> Recipe:
    """List the layers of squeeze-and-excitation on `channels`, squeezed to a quarter of `squeezed_from`."""
    squeezed = round_channels(squeezed_from // 4)
    return {
        "se_pool": Layer("pool", channels, channels),
        "se_reduce": Layer("conv", channels, squeezed, act="relu", norm=False),
        "se_expand": Layer("conv", squeezed, channels, act="hsigmoid", norm=False),
        "se_mul": Layer("mul", channels, channels),
    }


def squeeze_excite(run: Run[T], x: T) -> T:
    """Lead `x` through squeeze-and-excitation; gives `x` itself where the recipe has none."""
    gate = run("se_expand", run("se_reduce", run("se_pool", x)))
    return run("se_mul", x, gate)


def add_shortcut(run: Run[T], y: T, x: T) -> T:
    """Add the block's input `x`, through the shortcut convolution if there is one, to the main branch `y`."""
    return run("add", y, run("shortcut", x))

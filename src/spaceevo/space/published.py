"""Published networks by name: five supernets and ten subnets; their descriptions live in `conf/model`."""

from dataclasses import dataclass

from spaceevo.artifacts import read_yaml
from spaceevo.errors import ConfigError, choices
from spaceevo.space.description import conf_files, parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember


@dataclass(frozen=True)
class PublishedModel:
    """Describes a published subnet (`SEQnet@vnni-A0`), or a whole supernet (`spaceevo@vnni`), which has no `spec`."""

    name: str
    supernet: str
    member: SpaceMember
    spec: SubnetSpec | None


def published_models() -> list[str]:
    """List the names of the published networks, supernets and subnets."""
    return sorted(conf_files("model"))


def published_model(name: str) -> PublishedModel:
    """Look a published network up."""
    files = conf_files("model")
    if name not in files:
        raise ConfigError(f"unknown model '{name}'; allowed: {choices(sorted(files), limit=30)}")
    content = read_yaml(files[name])
    try:
        space, subnet, supernet = content["space"], content.get("subnet"), content["model"]["supernet"]
    except (TypeError, KeyError, AttributeError):
        raise ConfigError(f"model {files[name]} needs space and model.supernet; see the shipped ones") from None
    member = parse_space(str(space))
    spec = None if subnet is None else SubnetSpec.parse(str(subnet))
    if spec is not None:
        member.validate(spec)
    return PublishedModel(name, str(supernet), member, spec)


def published_names(member: SpaceMember) -> dict[SubnetSpec, str]:
    """Name the subnets of a space that were published."""
    models = [published_model(name) for name in published_models()]
    return {model.spec: model.name for model in models if model.spec is not None and model.member == member}

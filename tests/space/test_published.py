from pathlib import Path

import pytest
import yaml

from spaceevo.errors import ConfigError
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.published import published_model, published_models


def test_five_supernets_and_ten_subnets() -> None:
    models = {name: published_model(name) for name in published_models()}
    supernets = {name for name, model in models.items() if model.spec is None}
    assert len(supernets) == 5
    assert len(models) == 15
    for name, model in models.items():
        assert model.name == name
        assert model.supernet in supernets
        assert model.member == models[model.supernet].member
        assert (name == model.supernet) == (model.spec is None)


def test_they_are_the_published_ones(reference: Path) -> None:
    published = yaml.safe_load((reference / "published.yaml").read_text())
    assert set(published_models()) == {*published["supernets"], *published["subnets"]}
    for name, space in published["supernets"].items():
        assert published_model(name).member == parse_space(space)
    for name, entry in published["subnets"].items():
        assert published_model(name).supernet == entry["supernet"]
        assert published_model(name).spec == SubnetSpec.parse(entry["subnet"])


def test_an_unknown_one_names_the_allowed() -> None:
    with pytest.raises(ConfigError) as caught:
        published_model("SEQnet@vnni-A9")
    assert "unknown model 'SEQnet@vnni-A9'; allowed: " in str(caught.value)
    assert all(name in str(caught.value) for name in published_models())


def test_ones_own_models_stand_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("model: {name: mine, supernet: mine}\nspace: digits-012-010\n")
    monkeypatch.setenv("SPACEEVO_CONF", str(tmp_path))
    assert "mine" in published_models()
    assert published_model("mine").member == parse_space("digits-012-010")

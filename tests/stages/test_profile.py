from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

import spaceevo
from spaceevo.errors import ConfigError
from spaceevo.latency.roofline import family_of
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.space.placement import subnet_blocks
from spaceevo.stages.profile import _check_families, _Measurements, sample_blocks, sample_networks
from tests.platforms.conftest import Desk, Fake


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "desk", Desk())


def test_every_family_has_its_share_of_blocks() -> None:
    space = spaceevo.superspace("onnxw")
    found = sample_blocks(space, Random(0), 120)
    assert found == sample_blocks(space, Random(0), 120)
    assert len(found) == 120
    families = {family_of(spec) for spec, _ in found.values()}
    everything = [block for i in range(6) for block in _blocks_of(space.member([i] * 6, [0] * 6))]
    assert families == {family_of(spec) for spec, _ in everything}


def _blocks_of(member: Any) -> Any:
    return subnet_blocks(member, member.smallest)


def test_too_few_blocks_are_said() -> None:
    space = spaceevo.superspace("digits")
    networks = sample_networks(space, Random(0), 20).values()
    _check_families(sample_blocks(space, Random(0), 60), networks)
    with pytest.raises(ConfigError, match=r"recipe\.profile\.blocks = 2 leaves out .*; set it higher"):
        _check_families(sample_blocks(space, Random(0), 2), networks)


def test_unseen_networks_are_of_other_spaces() -> None:
    space, rng = spaceevo.superspace("onnxw"), Random(0)
    known = sample_networks(space, rng, 50)
    unseen = sample_networks(space, rng, 50, besides=known.values())
    assert not {str(m) for m, _ in known.values()} & {str(m) for m, _ in unseen.values()}
    assert len(sample_networks(spaceevo.superspace("digits"), rng, 120)) == 120


def test_a_killed_profile_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    space = spaceevo.superspace("digits")
    blocks = sample_blocks(space, Random(0), 70)
    networks = sample_networks(space, Random(1), 5)
    collections: dict[str, Mapping[str, Any]] = {"blocks": blocks, "networks": networks}

    class Killed(Fake):
        def time_models(self, models: Any, repeats: int) -> Any:
            if len(self.timed) > 100:
                raise KeyboardInterrupt
            return super().time_models(dict(models), repeats)

    first = Killed(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _Measurements(first, tmp_path / "timings.json", "mark", passes=3).measure(collections, repeats=2)
    second = Fake(tmp_path)
    resumed = _Measurements(second, tmp_path / "timings.json", "mark", passes=3)
    resumed.measure(collections, repeats=2)
    assert len(first.timed) + len(second.timed) == 2 * 70 + 3 * 5  # blocks take part in every second pass
    assert resumed.latency_ms("networks").keys() == networks.keys()
    assert resumed.cpu_seconds("blocks") > 0
    assert resumed.dispersion("blocks") == 1.0
    other = _Measurements(second, tmp_path / "timings.json", "other settings", passes=3)
    assert "blocks" not in other.state


@pytest.mark.parametrize(("budget_s", "passes"), [(None, 12), (0.0, 1), (1e6, 12)])
def test_no_pass_is_begun_beyond_the_budget(tmp_path: Path, budget_s: float | None, passes: int) -> None:
    networks = sample_networks(spaceevo.superspace("digits"), Random(1), 3)
    platform = Fake(tmp_path)
    measured = _Measurements(platform, tmp_path / "timings.json", "mark", passes=12, budget_s=budget_s)
    measured.measure({"blocks": {}, "networks": networks}, repeats=1)
    assert len(platform.timed) == passes * len(networks)
    again = _Measurements(platform, tmp_path / "timings.json", "mark", passes=12, budget_s=budget_s)
    again.measure({"blocks": {}, "networks": networks}, repeats=1)
    assert len(platform.timed) == passes * len(networks)

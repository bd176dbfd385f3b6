"""A run that skips, resumes, stops at a fault or rolls back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from spaceevo.errors import CheckpointError, ConfigError, DataError, Stopped
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.digits import write_digits
from spaceevo.lit.guard import DivergenceError, Guard, LossWatch
from spaceevo.lit.module import Callback, MultiPassModule, Recipe, Trainer
from spaceevo.lit.training import Trainee, Training
from spaceevo.lit.transforms import ImageTransform
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.loading import read_checkpoint

BATCHES = 2  # of an epoch
RECIPE = Recipe(3, lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.01))


class Toy(MultiPassModule):
    """One linear layer; its loss is broken at `fault`, unless the rate has been lowered."""

    def __init__(self, recipe: Recipe = RECIPE, fault: int | None = None, kill: int | None = None) -> None:
        super().__init__(recipe, 0)
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 10)
        self.fault, self.kill = fault, kill

    @property
    def network(self) -> nn.Module:
        return self.layer

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        if self.global_step == self.kill:
            raise SystemError
        broken = self.global_step == self.fault and self.rate_factor == 1
        loss = nn.functional.cross_entropy(self.layer(images.mean((2, 3))), labels)
        yield "loss", loss * float("nan") if broken else loss


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images") / "digits"
    write_digits(root)
    return root


def make_trainer(
    folder: Path, epochs: int, callbacks: Sequence[Callback] = (), run_id: str = "", **settings: Any
) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        limit_train_batches=BATCHES,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        default_root_dir=folder,
        **settings,
    )


def make_data(digits: Path) -> ImageFolderDataModule:
    transform = ImageTransform(size=8, resize=8, flip=False)
    return ImageFolderDataModule(root=digits, transform=transform, batch_size=8, holdout=50)


class Bench:
    """Trains toys below a folder, and keeps what the user is told."""

    def __init__(self, digits: Path, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.training = Training(make_data(digits), folder / "run", 0, make_trainer, self.said.append)

    def trainee(self, file: str, **identity: object) -> Trainee:
        return Trainee("toy", self.folder / file, {"lr": 0.1, **identity}, CheckpointMeta())

    def fit(self, file: str, make_module: Callable[[], MultiPassModule], **identity: object) -> Tensor:
        """Train; return the weights that were saved."""
        self.said.clear()
        self.training.fit(self.trainee(file, **identity), make_module, lambda _: {"figure": 1.0})
        return read_checkpoint(self.folder / file, "toy", "").state["weight"]


@pytest.fixture
def bench(digits: Path, tmp_path: Path) -> Bench:
    return Bench(digits, tmp_path)


def test_a_killed_run_resumes_and_ends_alike_and_a_finished_one_is_skipped(bench: Bench) -> None:
    whole = bench.fit("whole.pth", Toy)
    with pytest.raises(SystemError):
        bench.fit("killed.pth", lambda: Toy(kill=3))
    assert not (bench.folder / "killed.pth").exists()
    resumed = bench.fit("killed.pth", Toy)
    assert any("resumes" in line for line in bench.said)
    assert torch.equal(whole, resumed)
    bench.fit("killed.pth", lambda: Toy(kill=0))
    assert "skipped" in bench.said[0]


def test_a_run_that_began_with_other_settings_says_so_and_starts_over(bench: Bench) -> None:
    whole = bench.fit("whole.pth", lambda: Toy(replace(RECIPE, epochs=2)), epochs=2)
    with pytest.raises(SystemError):
        bench.fit("toy.pth", lambda: Toy(kill=3), epochs=3)
    found = bench.fit("toy.pth", lambda: Toy(replace(RECIPE, epochs=2)), epochs=2)
    began = "toy: starts over, since an unfinished run began with other settings or inputs: toy.epochs 3 → 2"
    assert bench.said[0] == began
    assert not any("resumes" in line for line in bench.said)
    assert torch.equal(found, whole)
    assert not list((bench.folder / "run/toy").glob("*/last.ckpt"))


def test_a_loss_that_is_no_number_stops_with_the_last_epoch_kept(bench: Bench, digits: Path) -> None:
    told = r"loss loss is nan at step 3; .*rollback and .* it resumes at the last kept state,"
    with pytest.raises(DivergenceError, match=told) as caught:
        bench.fit("toy.pth", lambda: Toy(fault=3))
    assert "16-mixed" not in str(caught.value)
    assert list((bench.folder / "run" / "toy").glob("*/last.ckpt"))
    whole = bench.fit("whole.pth", Toy)
    assert any("resumes" in line for line in bench.said)
    assert torch.equal(whole, Bench(digits, bench.folder / "other").fit("again.pth", Toy))


def test_a_rollback_goes_on_from_the_last_epoch_with_a_smaller_rate(bench: Bench) -> None:
    rates: list[float] = []

    class Watched(Toy):
        def on_train_epoch_end(self) -> None:
            scheduler: Any = self.lr_schedulers()
            rates.append(scheduler.base_lrs[0])

    recipe = replace(RECIPE, guard=Guard(action="rollback", rate_factor=0.25))
    bench.fit("toy.pth", lambda: Watched(recipe, fault=3))
    assert any("rolled back, rates now times 0.25" in line for line in bench.said)
    assert rates == pytest.approx([0.1, 0.025, 0.025])


class Exploding(Toy):
    """Its last step leaves a weight, or a buffer, that is no number, unless the rate has been lowered."""

    tensor = "weight"

    def on_train_batch_end(self, *arguments: Any) -> None:
        if self.global_step == 6 and self.rate_factor == 1:
            self.layer.get_parameter(self.tensor).data.view(-1)[1] = float("inf")


@pytest.mark.parametrize("tensor", ["weight", "bias"])
def test_an_explosion_at_the_last_step_is_not_saved(bench: Bench, tensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exploding, "tensor", tensor)
    with pytest.raises(DivergenceError, match=rf"{tensor} is nan or infinite in 1 of \d+ places at step 6; .*rollback"):
        bench.fit("toy.pth", Exploding)
    assert not (bench.folder / "toy.pth").exists()
    (last,) = (bench.folder / "run" / "toy").glob("*/last.ckpt")
    kept = torch.load(last, weights_only=False)
    assert kept["epoch"] == 1
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    recipe = replace(RECIPE, guard=Guard(action="rollback"))
    assert bench.fit("toy.pth", lambda: Exploding(recipe)).isfinite().all()
    assert any("rolled back" in line for line in bench.said)


def test_a_run_does_not_go_on_from_what_is_no_number(bench: Bench) -> None:
    with pytest.raises(SystemError):
        bench.fit("toy.pth", lambda: Toy(kill=3))
    (last,) = (bench.folder / "run" / "toy").glob("*/last.ckpt")
    kept = torch.load(last, weights_only=False)
    kept["state_dict"]["layer.weight"][0, 0] = float("nan")
    torch.save(kept, last)
    with pytest.raises(CheckpointError, match=r"last\.ckpt, .* \(delete it to start over\): layer.weight is nan"):
        bench.fit("toy.pth", Toy)


def test_what_cannot_be_measured_is_not_saved(bench: Bench) -> None:
    def measure(module: MultiPassModule) -> dict[str, float]:
        module.network.get_parameter("bias").data[0] = float("nan")
        return {"figure": 1.0}

    with pytest.raises(CheckpointError, match=r"toy\.pth is not written: bias is nan or infinite in 1 of 10 places"):
        bench.training.fit(bench.trainee("toy.pth"), Toy, measure)
    assert not (bench.folder / "toy.pth").exists()


@pytest.mark.parametrize(("batch_size", "images"), [(1, 8), (8, 1)])
def test_batch_norm_on_one_image_is_told_before_training(bench: Bench, batch_size: int, images: int) -> None:
    class Normed(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(10)

        @property
        def network(self) -> nn.Module:
            return nn.Sequential(self.layer, self.norm)

        def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
            raise AssertionError("it trains")

    data = bench.training.data
    data.batch_size = batch_size
    data.splits = replace(data.splits, train=data.splits.train[:images])
    with pytest.raises(DataError, match=rf"training batch has 1 image \({images} images, batch_size = {batch_size}, "):
        bench.training.fit(bench.trainee("toy.pth"), Normed, lambda _: {})


def test_rollbacks_end(bench: Bench) -> None:
    class Hopeless(Toy):
        def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
            yield "loss", self.layer(images.mean((2, 3))).sum() * float("inf")

    recipe = replace(RECIPE, guard=Guard(action="rollback", attempts=2))
    made: list[Toy] = []

    def make_module() -> Toy:
        made.append(Hopeless(recipe))
        return made[-1]

    with pytest.raises(
        DivergenceError, match=r"; 2 rollbacks did not help; raise .*attempts and .* it starts anew; or"
    ):
        bench.fit("toy.pth", make_module)
    assert len(made) == 3
    assert [line for line in bench.said if "rolled back" in line] == [
        f"toy: loss loss is inf at step 0; rolled back, rates now times {rate}" for rate in (0.5, 0.25)
    ]


def test_an_exponential_mean_of_the_weights_is_what_is_saved(bench: Bench) -> None:
    decay = 0.5
    seen: list[Tensor] = []

    class Watched(Toy):
        def on_train_batch_end(self, *arguments: Any) -> None:
            seen.append(self.layer.weight.detach().clone())

    saved = bench.fit("toy.pth", lambda: Watched(replace(RECIPE, ema_decay=decay)))
    expected = seen[0]
    for weight in seen[1:]:
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(saved, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_named_where_it_was_set() -> None:
    for precision, named in (("16-mixed", True), ("bf16-mixed", False)):
        error = DivergenceError("max loss is nan", 3).advised(Guard(), goes_on=False, precision=precision)
        assert ("without trainer.precision=16-mixed" in str(error)) == named
        assert len(str(error)) < 400


def test_a_loss_many_times_its_mean_has_exploded() -> None:
    watch = LossWatch(Guard(explodes_at=10))
    for step in range(5):
        watch.check({"max": 2.0, "min": 100.0}, step)
    watch.check({"max": 19.0}, 5)
    with pytest.raises(DivergenceError, match=r"max loss is 40 \(its mean was 2\.\d+\) at step 6"):
        watch.check({"max": 40.0}, 6)


@pytest.mark.parametrize(
    "settings", [{"action": "ignore"}, {"explodes_at": 1.0}, {"rate_factor": 0.0}, {"attempts": -1}]
)
def test_wrong_guards(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        Guard(**settings)


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"lr_batch_size": 0}, {"schedule_every": 0}, {"schedule": "square"}, {"ema_decay": 1.0}]
)
def test_wrong_recipes(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        replace(RECIPE, **settings)
    with pytest.raises(ConfigError, match=r"recipe: warmup_epochs = 9\.0; allowed: 0…epochs \(3\)"):
        replace(RECIPE, warmup_epochs=9)


def test_half_precision_clips_gradients_without_their_scale(digits: Path, tmp_path: Path) -> None:
    from pytorch_lightning.plugins.precision import MixedPrecision

    recipe = replace(RECIPE, epochs=1, clip_value=0.01)
    found = []
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**14))
    for plugins in ([], [scaled]):
        module = Toy(recipe)
        before = module.layer.weight.detach().clone()
        trainer = make_trainer(tmp_path, 1, plugins=plugins, enable_checkpointing=False)
        trainer.fit(module, make_data(digits))
        found.append(module.layer.weight.detach() - before)
    assert found[0].abs().max() > 1e-4
    assert torch.allclose(found[1], found[0], rtol=0.02, atol=2e-5)


def state_of(bench: Bench, name: str = "last.ckpt") -> Path:
    (found,) = (bench.folder / "run/toy").glob(f"*/{name}")
    return found


@pytest.mark.parametrize("content", [b"", b"junk", None], ids=["empty", "junk", "flipped"])
def test_a_damaged_state_gives_way_to_the_one_before_it(bench: Bench, content: bytes | None) -> None:
    whole = bench.fit("whole.pth", Toy)
    with pytest.raises(SystemError):
        bench.fit("killed.pth", lambda: Toy(kill=5))
    last, previous = state_of(bench), state_of(bench, "previous.ckpt")
    flipped = bytearray(last.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    last.write_bytes(bytes(flipped) if content is None else content)
    with pytest.raises(SystemError):  # the whole one before it is not lost by this
        bench.fit("killed.pth", lambda: Toy(kill=3))
    assert torch.equal(whole, bench.fit("killed.pth", Toy))
    assert bench.said[:2] == [f"toy: {last} is damaged", f"toy: resumes from {previous}"]


def test_a_training_whose_states_are_all_damaged_starts_over(bench: Bench) -> None:
    whole = bench.fit("whole.pth", Toy)
    with pytest.raises(SystemError):
        bench.fit("killed.pth", lambda: Toy(kill=5))
    for name in ("last.ckpt", "previous.ckpt", "identity.json"):
        state_of(bench, name).write_bytes(b"{")
    assert torch.equal(whole, bench.fit("killed.pth", Toy))
    assert bench.said[0].endswith("last.ckpt is damaged")


def test_a_damaged_target_is_trained_again(bench: Bench) -> None:
    whole = bench.fit("toy.pth", Toy)
    (bench.folder / "toy.pth").write_bytes(b"")
    assert torch.equal(whole, bench.fit("toy.pth", Toy))
    assert "it is trained again" in bench.said[0]


def test_a_signal_leaves_the_last_finished_epoch(bench: Bench) -> None:
    whole = bench.fit("whole.pth", Toy)

    class Signalled(Toy):
        def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
            if self.global_step == 3:
                raise Stopped(15)
            return super().passes(images, labels, rng)

    with pytest.raises(Stopped) as caught:
        bench.fit("toy.pth", Signalled)
    assert caught.value.kept == [f"toy, its last state in {state_of(bench)}"]
    assert torch.equal(whole, bench.fit("toy.pth", Toy))
    assert "resumes" in bench.said[0]


def test_a_state_is_written_beside_the_one_it_replaces(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes through the folder for temporary files, which may be on another disk, or full."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    bench.fit("toy.pth", Toy)

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from pydantic import ValidationError

from spaceevo import torchvision_shim
from spaceevo.errors import ConfigError, DataError
from spaceevo.lit import digits
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.epochs import EpochSampler
from spaceevo.lit.listing import Sample

CONF = Path(__file__).parents[2] / "conf" / "data"


def write_tree(root: Path, counts: Mapping[str, int]) -> Path:
    """Write that many noise images into each folder `split/class`."""
    rng = np.random.default_rng(0)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("images"), {"train/b": 9, "train/a": 8, "val/a": 3, "val/b": 2})


def module(root: Path, **settings: Any) -> ImageFolderDataModule:
    small = {"size": 8, "resize": 8, "crop_scale": (0.3, 1.0)}
    defaults: dict[str, Any] = {"root": root, "transform": small, "batch_size": 4, "eval_batch_size": 4, "holdout": 5}
    return ImageFolderDataModule(**defaults | settings)


def files_of(samples: Sequence[Sample]) -> list[tuple[str, int]]:
    """Paths of the image files, and their labels."""
    return [(path, label) for path, label in samples if isinstance(path, str)]


def epoch_of(data: ImageFolderDataModule, epoch: int = 0) -> torch.Tensor:
    data.epoch = epoch
    return torch.cat([images for images, _ in data.train_dataloader()])


def test_split_is_the_first_of_the_published_permutation(tree: Path) -> None:
    splits = module(tree).splits
    files = [str(path) for name in "ab" for path in sorted((tree / "train" / name).iterdir())]
    order = torch.randperm(17, generator=torch.Generator().manual_seed(2147483647)).tolist()
    assert [path for path, _ in splits.held_out] == [files[index] for index in order[:5]]
    assert [path for path, _ in splits.train] == [files[index] for index in order[5:]]
    assert all(label == "ab".index(Path(path).parent.name) for path, label in files_of([*splits.train, *splits.test]))
    assert [Path(path).parts[-3:] for path, _ in files_of(splits.test)][2:4] == [
        ("val", "a", "02.png"),
        ("val", "b", "00.png"),
    ]
    assert module(tree, split_seed=1).splits.held_out != splits.held_out


@pytest.mark.parametrize(("holdout", "count"), [(1, 1), (16, 16), (0.25, 4), (0.001, 1), (0.999, 16)])
def test_holdout_counts_images(tree: Path, holdout: float, count: int) -> None:
    splits = module(tree, holdout=holdout).splits
    assert (len(splits.held_out), len(splits.train)) == (count, 17 - count)


@pytest.mark.parametrize("holdout", [0, 17, -1, 0.0, 1.0, 1.5])
def test_holdout_that_empties_a_split_is_refused(tree: Path, holdout: float) -> None:
    with pytest.raises((ConfigError, ValidationError), match=rf"holdout.* {holdout}|input_value={holdout}"):
        module(tree, holdout=holdout).setup()


def test_same_seed_and_epoch_give_the_same_bits(tree: Path) -> None:
    first = epoch_of(module(tree), 3)
    torch.manual_seed(99)
    again = module(tree)
    epoch_of(again, 2)
    assert torch.equal(epoch_of(again, 3), first)
    assert torch.equal(epoch_of(module(tree, num_workers=2), 3), first)
    assert not torch.equal(epoch_of(module(tree), 4), first)
    assert not torch.equal(epoch_of(module(tree, seed=1), 3), first)
    assert first.shape == (12, 3, 8, 8)


def test_loaders_leave_the_global_generator_alone(tree: Path) -> None:
    data = module(tree)
    state = torch.get_rng_state()
    epoch_of(data)
    data.calibration_images(), list(data.test()), list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), state)


def test_incomplete_last_batch_is_left_out_unless_alone(tree: Path) -> None:
    assert [len(y) for _, y in module(tree, batch_size=5).train_dataloader()] == [5, 5]
    assert [len(y) for _, y in module(tree, batch_size=50).train_dataloader()] == [12]


@pytest.mark.parametrize(("length", "world_size"), [(12, 3), (13, 3), (1, 4)])
def test_ranks_share_one_order(length: int, world_size: int) -> None:
    whole = list(EpochSampler(length, seed=0, epoch=1))
    ranks = [list(EpochSampler(length, seed=0, epoch=1, rank=r, world_size=world_size)) for r in range(world_size)]
    assert sorted(index for index, _ in whole) == list(range(length))
    assert {len(rank) for rank in ranks} == {-(-length // world_size)}
    dealt = [pair for turn in zip(*ranks, strict=True) for pair in turn]
    assert dealt[:length] == whole
    assert all(pair in whole for pair in dealt)


def test_epochs_and_seeds_do_not_mirror_each_other() -> None:
    orders = {tuple(EpochSampler(20, seed=seed, epoch=epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_attached_trainer_tells_epoch_and_rank(tree: Path) -> None:
    data = module(tree)
    data.trainer = SimpleNamespace(current_epoch=3, global_rank=1, world_size=2)  # type: ignore[assignment]
    sampler = data.train_dataloader().sampler
    assert list(sampler) == list(EpochSampler(12, seed=0, epoch=3, rank=1, world_size=2))


def test_resumed_fit_sees_what_the_whole_one_saw(tree: Path, tmp_path: Path) -> None:
    from pytorch_lightning import LightningModule, Trainer

    class Recorder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[torch.Tensor] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            self.seen.append(batch[0])
            return self.weight * batch[0].mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(epochs: int, checkpoint: Path | None = None) -> tuple[Trainer, list[torch.Tensor]]:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
        )
        recorder = Recorder()
        trainer.fit(recorder, datamodule=module(tree), ckpt_path=checkpoint, weights_only=True)
        return trainer, recorder.seen

    _, whole = fit(3)
    killed, begun = fit(1)
    killed.save_checkpoint(tmp_path / "last.ckpt")
    _, resumed = fit(3, tmp_path / "last.ckpt")
    assert len(whole) == 9
    assert torch.equal(torch.stack(begun + resumed), torch.stack(whole))


def test_evaluation_batches_are_fixed_and_kept(tree: Path) -> None:
    data = module(tree)
    assert [len(labels) for _, labels in data.held_out()] == [4, 1]
    assert torch.cat([labels for _, labels in data.test()]).tolist() == [0, 0, 0, 1, 1]
    assert data.held_out() is data.held_out()
    for kept, loader in ((data.held_out(), data.val_dataloader()), (data.test(), data.test_dataloader())):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, loader, strict=True))


def test_a_split_over_the_limit_is_decoded_each_time(tree: Path) -> None:
    small, large = module(tree, cache_mib=0), module(tree)
    assert small.held_out() is not small.held_out()
    for _ in range(2):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(small.held_out(), large.held_out(), strict=True))


def test_calibration_images_are_training_images_whatever_the_seed(tree: Path) -> None:
    batches = module(tree, calibration_batches=2, calibration_batch_size=3).calibration_images()
    assert [batch.shape for batch in batches] == [(3, 3, 8, 8)] * 2
    other = module(tree, calibration_batches=2, calibration_batch_size=3, seed=5)
    assert torch.equal(torch.cat(list(other.calibration_images())), torch.cat(list(batches)))
    assert other.calibration_images()[0] is other.calibration_images()[0]
    expected = other.transform.evaluate()(Image.open(files_of(other.splits.train)[0][0]))
    assert torch.equal(batches[0][0], expected)


def test_folder_of_classes_is_train_and_held_out_is_the_test(tree: Path) -> None:
    data = module(tree / "train")
    assert data.classes == ("a", "b")
    assert data.num_classes == 2
    assert data.splits.test == data.splits.held_out == module(tree).splits.held_out
    assert data.test() is data.held_out()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (None, r"data\.root .+images is not a folder; expected <root>/train/<class>/<image>.*; set data\.root"),
        ({}, r"\S+/images holds no class folders; expected .+"),
        ({"val/a": 1}, r"\S+/images holds val and no train; expected .+"),
        ({"train/a": 2, "train/b": 0}, r"\S+/train holds no image of class b; allowed: .+; add some .+"),
        (
            {"train/a": 2, "train/b": 2, "val/b": 1, "val/c": 1},
            r"classes of \S+/val are not those of \S+/train; only in the first: c; rename or remove them",
        ),
        ({"train/a": 2, "train/b": 1, "val/a": 0}, r"\S+/val holds no image; .+"),
    ],
)
def test_faulty_folder_is_named_in_one_line(counts: Mapping[str, int] | None, message: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    if counts is not None:
        root.mkdir()
        write_tree(root, counts)
    with pytest.raises(DataError, match=rf"^{message}$"):
        module(root, holdout=1).setup()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_broken_image_is_named_in_one_line(num_workers: int, tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"train/a": 3, "train/b": 1})
    broken = root / "train" / "a" / "01.png"
    broken.write_bytes(broken.read_bytes()[:60])
    data = module(root, holdout=1, num_workers=num_workers)
    with pytest.raises(DataError) as caught:
        list(data.train_dataloader()), list(data.val_dataloader())
    message = str(caught.value)
    assert message.startswith(f"image {broken} cannot be read (")
    assert message.endswith("replace or remove the file")
    assert "\n" not in message


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "deep" / "digits"
    digits.write_digits(root)
    return root


def test_digits_are_all_written_and_stratified(digits_root: Path) -> None:
    train, val = (
        {folder.name: len(list(folder.iterdir())) for folder in (digits_root / part).iterdir()}
        for part in ("train", "val")
    )
    assert (sum(train.values()), sum(val.values())) == (1347, 450)
    assert sorted(train) == list("0123456789")
    assert all(abs(val[name] / (val[name] + train[name]) - 0.25) < 0.01 for name in train)
    assert [path.name for path in digits_root.parent.iterdir()] == ["digits"]
    pixels = np.asarray(Image.open(next(digits_root.glob("*/0/0000.png"))))
    assert pixels[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0 of 16


def test_digits_stay_as_they_are(digits_root: Path) -> None:
    before = digits_root.stat().st_mtime_ns
    digits.write_digits(digits_root)
    assert digits_root.stat().st_mtime_ns == before


@pytest.mark.parametrize("other", ["train", "0/1.png", "x.tar", "notes.txt"])
def test_digits_are_written_to_their_own_place_and_to_no_folder_of_the_users(other: str, tmp_path: Path) -> None:
    place = tmp_path / "digits"
    for root in (tmp_path / "misspelt", tmp_path / "empty", tmp_path / "filled"):
        if root.name != "misspelt":
            root.mkdir()
        if root.name == "filled":
            (root / other).parent.mkdir(exist_ok=True)
            (root / other).write_bytes(b"mine")
        before = sorted(tmp_path.rglob("*"))
        data = module(root, prepare=partial(digits.write_digits, place=place))
        with pytest.raises(DataError, match=rf"{root} (is not a folder|holds).+"):
            data.setup()
        assert sorted(tmp_path.rglob("*")) == before
    place.mkdir()
    (place / other).parent.mkdir(exist_ok=True)
    (place / other).write_bytes(b"mine")
    with pytest.raises(DataError, match=f"{place} holds "):
        module(place, prepare=partial(digits.write_digits, place=place)).setup()
    assert (place / other).read_bytes() == b"mine"


def test_the_shipped_place_is_the_shipped_root() -> None:
    for name in ("digits", "torchvision"):
        config: Any = OmegaConf.load(CONF / f"{name}.yaml")
        assert config.root == (config.prepare.place if name == "digits" else config.place)


def test_killed_writer_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def save(self: Image.Image, path: Path) -> None:
        assert not (tmp_path / "digits").exists()
        written.append(path)
        if len(written) == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        digits.write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_slower_of_two_writers_keeps_the_first_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "digits"

    def save(self: Image.Image, path: Path) -> None:
        (root / "train").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(Image.Image, "save", save)
    digits.write_digits(root)
    assert [path.name for path in root.iterdir()] == ["train"]


def test_digits_config_makes_ready_images(digits_root: Path) -> None:
    config = OmegaConf.create({"seed": 3, "data": OmegaConf.load(CONF / "digits.yaml")})
    config.data.root = str(digits_root)
    data = instantiate(config.data)
    data.setup()
    assert (data.seed, data.num_classes) == (3, 10)
    assert [len(split) for split in (data.splits.train, data.splits.held_out, data.splits.test)] == [1097, 250, 450]
    images = torch.cat(list(data.calibration_images()))
    assert images.shape == (256, 3, 32, 32)
    assert abs(images.mean()) < 0.1
    assert abs(images.std() - 1) < 0.1


def test_prepare_writes_absent_images(tmp_path: Path) -> None:
    data = module(tmp_path / "new", prepare=lambda root: write_tree(root, {"train/a": 4, "train/b": 4}))
    assert data.classes == ("a", "b")


def test_imagefolder_config_overrides(tree: Path) -> None:
    config = OmegaConf.create({"seed": 0, "data": OmegaConf.load(CONF / "imagefolder.yaml")})
    config.data.update(root=str(tree), num_workers=0, holdout=5, eval_batch_size=2)
    images, _ = next(iter(instantiate(config.data).val_dataloader()))
    assert images.shape == (2, 3, 224, 224)


def test_operators_are_declared_once_and_only_where_torchvision_lacks_its_own() -> None:
    import torchvision  # after the shim, which importing spaceevo.lit has called

    torchvision_shim.ensure_torchvision()
    assert len(torchvision_shim._declared) == (0 if torchvision.extension._has_ops() else 1)
    assert isinstance(torchvision.models.mobilenet_v2(), torch.nn.Module)

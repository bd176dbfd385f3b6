"""The Q-T score against exact values, an independent implementation of its definition, and published figures."""

from pathlib import Path

import numpy as np
import pytest

from spaceevo.errors import ConfigError, ConstraintError, EncodingError, MissingArtifactError, TableError
from spaceevo.search.lut import LutRow, lut_file_name, lut_keys, read_lut_file, write_lut_file
from spaceevo.search.quality import NO_SUBNET_LOSS, QualityScorer
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.superspace import SpaceMember, Superspace

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"published data is not at {REFERENCE}")


@pytest.fixture(scope="module")
def space() -> Superspace:
    return superspace("digits")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, space: Superspace) -> Path:
    """40 random rows a file, in which more latency means less loss, and large images cost more."""
    folder, rng = tmp_path_factory.mktemp("lut"), np.random.default_rng(5)
    for key in lut_keys(space):
        sizes = [space.input_hw(space.searched[key.stage].name, r) for r in space.block_resolutions]
        rows = []
        for n in range(40):
            latency = float(rng.gamma(2.0, 1.0 + n % 2))
            rows.append(
                LutRow("3#16#2", 8, sizes[n % 2], 0.3 + float(rng.gamma(2.0, 0.2)) / (1 + latency), 1, 1, latency)
            )
        write_lut_file(folder / lut_file_name(space, key), rows)
    return folder


def one_row_tables(folder: Path, space: Superspace) -> Path:
    """Every subnet has loss 3 · 0.5; latency 3 · 1 ms at the small resolution and 3 · 2 ms at the large."""
    for key in lut_keys(space):
        sizes = [space.input_hw(space.searched[key.stage].name, r) for r in space.block_resolutions]
        rows = [LutRow("3#16#2", 8, size, 0.5, 1, 1, latency) for size, latency in zip(sizes, (1.0, 2.0), strict=True)]
        write_lut_file(folder / lut_file_name(space, key), rows)
    return folder


def plain_score(
    folder: Path, member: SpaceMember, bound: float, fixed: float, samples: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """The definition, written down again: score, probability and loss from fresh draws."""
    space = member.superspace
    names = [f"{s.name}_{b}_{w}" for s, b, w in zip(space.searched, member.blocks, member.windows, strict=True)]
    files = [np.array([(r.hw, r.loss, r.latency_ms) for r in read_lut_file(folder / f"{n}.csv")]) for n in names]
    loss, latency = np.zeros(samples), np.full(samples, fixed)
    for group in range(0, samples, 500):
        resolution = int(rng.choice(space.block_resolutions))
        for stage, rows in zip(space.searched, files, strict=True):
            pool = rows[rows[:, 0] == space.input_hw(stage.name, resolution)]
            picks = pool[rng.integers(len(pool), size=500)]
            loss[group : group + 500] += picks[:, 1]
            latency[group : group + 500] += picks[:, 2]
    good = sorted(loss[latency <= bound])
    p = len(good) / samples + 1e-5
    mean = sum(good[:50]) / (len(good[:50]) + 1e-5) if good else 1e5
    return 1 / (max(1, (0.08 / p) ** 0.01) * mean), p, mean


@pytest.mark.parametrize("bound", [4.0, 9.0])
def test_agrees_with_the_definition(tables: Path, space: Superspace, bound: float) -> None:
    member, samples, runs = parse_space("digits-120-011"), 20_000, 40
    rng = np.random.default_rng(1)
    plain = np.array([plain_score(tables, member, bound, 0.5, samples, rng) for _ in range(runs)])
    qualities = [QualityScorer(tables, space, [bound], 0.5, samples=samples, seed=s).score(member) for s in range(runs)]
    ours = np.array([(quality.score, quality.probability, quality.loss) for quality in qualities])
    error = np.sqrt((plain.var(axis=0, ddof=1) + ours.var(axis=0, ddof=1)) / runs)
    assert (np.abs(plain.mean(axis=0) - ours.mean(axis=0)) < 4 * error).all()
    assert (4 * error < [0.02, 0.05, 0.05]).all()  # the comparison above must be able to fail


def test_exact_values_of_constant_tables(tmp_path: Path, space: Superspace) -> None:
    folder = one_row_tables(tmp_path, space)
    scorer = QualityScorer(folder, "digits", [4.0, 6.5], {24: 0.5, 32: 0.5}, t=0.8, a=0.5, samples=1000)
    quality = scorer.score("digits-000-000")
    tight, loose = quality.per_constraint
    loss = 50 * 1.5 / (50 + 1e-5)
    assert (tight.probability, loose.probability) == pytest.approx((0.5 + 1e-5, 1.0 + 1e-5))
    assert (tight.loss, loose.loss) == pytest.approx((loss, loss))
    assert tight.score == pytest.approx(1 / ((0.8 / 0.50001) ** 0.5 * loss))
    assert loose.score == pytest.approx(1 / loss)
    assert quality.score == pytest.approx(tight.score + loose.score)
    assert quality.probability == pytest.approx((tight.probability + loose.probability) / 2)
    assert quality.loss == pytest.approx(loss)


def test_few_subnets_are_averaged_over_their_count(tmp_path: Path, space: Superspace) -> None:
    quality = QualityScorer(one_row_tables(tmp_path, space), space, 4.0, 0.5, samples=20).score("digits-000-000")
    assert quality.loss == pytest.approx(10 * 1.5 / (10 + 1e-5))


def test_fixed_latency_counts_per_resolution(tmp_path: Path, space: Superspace) -> None:
    folder = one_row_tables(tmp_path, space)
    scorer = QualityScorer(folder, space, 5.0, {24: 1.5, 32: 0.0}, samples=100)
    assert scorer.latency_range_ms("digits-000-000") == pytest.approx((4.5, 6.0))
    assert scorer.score("digits-000-000").probability == pytest.approx(0.5 + 1e-5)


def test_space_without_a_subnet_scores_almost_nothing(tables: Path, space: Superspace) -> None:
    scorer = QualityScorer(tables, space, 1.0, 0.5, samples=2000)
    members = [space.member((a, b, c), (0, 1, 0)) for a in range(3) for b in range(3) for c in range(3)]
    slowest = max(members, key=lambda member: scorer.latency_range_ms(member)[0])
    quality = scorer.score(slowest)
    assert quality.loss == NO_SUBNET_LOSS
    assert quality.probability == 1e-5
    assert 0 < quality.score < 1e-4


@pytest.mark.parametrize("samples", [20_000, 20_017])
@pytest.mark.parametrize("constraints", [(3.0,), (5.0, 9.0), (40.0, 60.0, 1e9)])
def test_shortcuts_change_nothing(
    tables: Path, space: Superspace, constraints: tuple[float, ...], samples: int
) -> None:
    """Few, many or all draws within the constraint: counts and the top 50 are those of a plain sort of all."""
    scorer = QualityScorer(tables, space, constraints, 0.5, samples=samples, seed=3)
    counts = []
    for member in (space.member(b, w) for b in np.ndindex(3, 3, 3) for w in ((0, 0, 0), (1, 0, 1))):
        loss, latency = scorer.sampled(member)
        for part in scorer.score(member).per_constraint:
            good = np.sort(loss[latency <= part.constraint_ms])
            counts.append(len(good))
            assert part.probability == len(good) / samples + 1e-5
            assert part.loss == (good[:50].sum(dtype=np.float64) / (min(50, len(good)) + 1e-5) if len(good) else 1e5)
    assert (max(counts) < 1000) == (constraints == (3.0,))  # both ways of finding the best are taken


def test_draws_are_rows_of_the_tables(tmp_path: Path, space: Superspace) -> None:
    """With a loss of 1, 10 or 100 a row by stage, a draw's loss tells its rows: each as frequent as the others."""
    for key in lut_keys(space):
        sizes = [space.input_hw(space.searched[key.stage].name, r) for r in space.block_resolutions]
        rows = [LutRow("3#16#2", 8, hw, (1 + n) * 10.0**key.stage, 1, 1, n + hw) for hw in sizes for n in range(4)]
        write_lut_file(tmp_path / lut_file_name(space, key), rows)
    scorer = QualityScorer(tmp_path, space, 1e6, {24: 0.5, 32: 0.25}, samples=64_000)
    loss, latency = scorer.sampled("digits-012-101")
    digits = np.stack([loss // 10**n % 10 for n in range(3)]).astype(int)
    assert set(digits.ravel()) == {1, 2, 3, 4}
    base = latency - (digits - 1).sum(axis=0)
    by_hand = [sum(space.input_hw(s.name, r) for s in space.searched) for r in space.block_resolutions]
    assert set(base) == {by_hand[0] + 0.5, by_hand[1] + 0.25}
    _, counts = np.unique(np.vstack([digits, base]), axis=1, return_counts=True)
    assert len(counts) == 2 * 4**3
    # Chi-squared of 126 degrees of freedom: mean 126, deviation 16.
    assert 60 < ((counts - 500) ** 2 / 500).sum() < 200


def test_same_seed_same_score_and_text_works(tables: Path, space: Superspace) -> None:
    first, second, other = (QualityScorer(tables, "digits", 6.0, 0.5, samples=2000, seed=s) for s in (1, 1, 2))
    assert first.score("digits-012-101") == second.score(parse_space("digits-012-101"))
    assert first.score("digits-012-101") != other.score("digits-012-101")


def test_standard_error_matches_the_spread_over_seeds(tables: Path, space: Superspace) -> None:
    scores = [QualityScorer(tables, space, 6.0, 0.5, samples=2000, seed=s).score("digits-012-101") for s in range(20)]
    scorer = QualityScorer(tables, space, 6.0, 0.5, samples=2000, seed=99)
    error = scorer.fresh_scores("digits-012-101", 40).std(ddof=1)
    assert error == pytest.approx(np.std([quality.score for quality in scores], ddof=1), rel=0.6)
    assert error > 0


def test_latency_ranges(tables: Path, space: Superspace) -> None:
    scorer = QualityScorer(tables, space, 60.0, 0.5, samples=2000)
    member = parse_space("digits-012-101")
    fastest, slowest = scorer.latency_range_ms(member)
    sampled = scorer.sampled(member).latency_ms
    least, greatest = scorer.latency_range_ms()
    assert least <= fastest <= sampled.min() + 1e-5 < sampled.max() <= slowest + 1e-5 <= greatest
    members = [scorer.latency_range_ms(space.member(b, w)) for b in np.ndindex(3, 3, 3) for w in np.ndindex(2, 2, 2)]
    assert least == min(low for low, _ in members)
    assert greatest == max(high for _, high in members)


def test_impossible_constraint_names_the_fastest(tmp_path: Path, space: Superspace) -> None:
    with pytest.raises(ConstraintError, match=r"latency_constraint 3 ms: no subnet of digits .* fastest takes 3.5 ms"):
        QualityScorer(one_row_tables(tmp_path, space), space, [9.0, 3.0], 0.5, samples=10)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"latency_constraints_ms": []}, ConfigError, "latency_constraint is empty"),
        ({"latency_constraints_ms": [-1.0]}, ConfigError, "latency_constraint -1.0"),
        ({"t": 0.0}, ConfigError, "t of the Q-T score is 0.0"),
        ({"a": -1.0}, ConfigError, "a of the Q-T score is -1.0"),
        ({"samples": 0}, ConfigError, "samples of the Q-T score is 0"),
        ({"superspace": "nowhere"}, ConfigError, "nowhere"),
        ({"lut_dir": "nowhere"}, MissingArtifactError, r"\+stage=block_lut"),
        ({"fixed_latency_ms": {24: 0.5}}, TableError, "resolution 32; set platform.fixed_latency_ms"),
        ({"fixed_latency_ms": float("nan")}, TableError, "platform.fixed_latency_ms is nan at resolution 24"),
    ],
)
def test_bad_settings(tables: Path, changes: dict[str, object], error: type[Exception], words: str) -> None:
    settings = {"lut_dir": tables, "superspace": "digits", "latency_constraints_ms": [9.0], "fixed_latency_ms": 0.5}
    with pytest.raises(error, match=words):
        QualityScorer(**{**settings, **changes})  # type: ignore[arg-type]


def test_member_of_another_superspace(tables: Path, space: Superspace) -> None:
    scorer = QualityScorer(tables, space, 9.0, 0.5, samples=10)
    with pytest.raises(EncodingError, match="not of superspace digits"):
        scorer.score("onnxw-151122-023231")


@needs_reference
def test_published_spaces_on_published_tables(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.getbasetemp() / "lut-cache"
    scorer = QualityScorer(REFERENCE / "block_lut" / "onnxw", "onnxw", [10.0], 0.5, cache_dir=cache)
    published = scorer.score("onnxw-151122-023231")
    assert published.score == pytest.approx(0.396, abs=0.0015)
    assert published.score > scorer.score("onnxw-121122-133333").score

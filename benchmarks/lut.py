"""Rows of look-up tables under an EfficientNet-B5: ours, from cached features; plain, the teacher for every row."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from block_kd import make_students, make_teacher
from plain import clock, machine, mean, plain_forms

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.losses import noise_to_signal
from spaceevo.nn.memory import channels_last
from spaceevo.nn.supernet import resize
from spaceevo.space.description import superspace
from spaceevo.stages.features import TeacherFeatures, TensorStore
from spaceevo.stages.lut_files import Sampled, sample_rows, substage_loss

RESOLUTION = 192


def measure(stage: str, batch: int, rows: int, int8: bool) -> tuple[float, float, float]:
    """Seconds a row of the plain form and of ours, and ours' seconds for the features, mean over the candidates."""
    torch.manual_seed(0)
    calibration, evaluation = [torch.randn(batch, 3, 224, 224)], [torch.randn(batch, 3, 224, 224) for _ in range(3)]
    teacher = make_teacher(int8)
    students = make_students(teacher, stage, int8)
    plain: list[float] = []
    sampled: dict[str, list[Sampled]] = {}
    with torch.no_grad(), plain_forms():
        for name, student in students.items():
            space = superspace("mobilew").stage_space(stage, int(name[-1]), 0)
            hw = superspace("mobilew").input_hw(stage, RESOLUTION)
            sampled[name] = sample_rows(space, {RESOLUTION: hw}, rows, name)
            for one in sampled[name]:
                started = clock()
                student.network.activate(one.blocks, one.cin)

                def run(images: torch.Tensor, student: object = student) -> tuple[torch.Tensor, torch.Tensor]:
                    source, target = teacher.features(resize(images, RESOLUTION), *student.taps)  # type: ignore[attr-defined]
                    return student.network(source), target  # type: ignore[attr-defined]

                recalibrate(student.network, calibration, run)
                _ = sum(float(noise_to_signal(*run(images))) for images in evaluation)
                plain.append(clock() - started)
    with tempfile.TemporaryDirectory() as folder:
        started = clock()
        taps = {stage: next(iter(students.values())).taps}
        store = TensorStore(Path(folder), 4096)
        features = TeacherFeatures(teacher, taps, [RESOLUTION], calibration, evaluation, store, torch.device("cpu"))
        kept, preparation = features.of(stage, RESOLUTION), clock() - started
        ours: list[float] = []
        for name, student in students.items():
            channels_last(student.network)
            for one in sampled[name]:
                started = clock()
                substage_loss(student.network, one.blocks, one.cin, kept, "teacher")
                ours.append(clock() - started)
    return mean(plain), mean(ours), preparation


def main() -> None:
    """Measure every stage and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", default=[f"stage{index}" for index in range(1, 7)])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--quant", choices=("off", "deploy"), default="off", help="fp32, or INT8 as deployed")
    asked = parser.parse_args()
    print(f"look-up table rows, mobilew at {RESOLUTION} px, batch {asked.batch}, quant={asked.quant}; {machine()}")
    ratios = []
    for stage in asked.stages:
        plain, ours, preparation = measure(stage, asked.batch, asked.rows, asked.quant != "off")
        with_features = ours + preparation / 7000  # a stage has seven candidates, each at least 1,000 rows
        ratios.append(plain / with_features)
        print(f"{stage}: plain {plain:.3f} s a row  ours {with_features:.3f}  {ratios[-1]:.1f}x", flush=True)
    print(f"mean {mean(ratios):.1f}x")


if __name__ == "__main__":
    main()

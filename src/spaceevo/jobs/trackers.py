"""One class for each experiment tracker: how it is told what no logger of Lightning's tells all of them alike."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from spaceevo.jobs.lineage import Artefact

Row = Mapping[str, Any]
MOST_METRICS = 1000  # MLflow takes no more at a time


class Tracker(ABC):
    """Speaks to one run through Lightning's logger of it."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Tell how the job was set."""
        self.logger.log_hyperparams(dict(settings))

    def scalars(self, values: Mapping[str, float]) -> None:
        """Tell numbers by name."""
        self.logger.log_metrics(dict(values), step=0)

    def curve(self, name: str, rows: Sequence[Mapping[str, float]], axis: str) -> None:
        """Tell the columns of a table as scalars over one of them."""
        for row in rows:
            self.logger.log_metrics(on_curve(name, row, axis), step=int(row[axis]))

    @abstractmethod
    def texts(self, values: Mapping[str, str]) -> None:
        """Tell what is no number, by name."""

    @abstractmethod
    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Tell a table of rows by column."""

    @abstractmethod
    def picture(self, name: str, path: Path) -> None:
        """Show a PNG."""

    @abstractmethod
    def file(self, artefact: Artefact, *, is_made: bool) -> None:
        """Tell of a file that the job read, or made: name and hash, no content."""

    @abstractmethod
    def end(self, *, failed: bool = False) -> None:
        """End the run."""


class WandbTracker(Tracker):
    """Speaks to a run of W&B, offline as well."""

    def scalars(self, values: Mapping[str, float]) -> None:
        """Tell them as the run's summary, by which W&B compares runs."""
        self.logger.experiment.summary.update(dict(values))

    def texts(self, values: Mapping[str, str]) -> None:
        """Tell them as the run's summary."""
        self.logger.experiment.summary.update(dict(values))

    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Tell it as W&B's Table."""
        columns = columns_of(rows)
        self.logger.log_table(key=name, columns=columns, data=[[row.get(c) for c in columns] for row in rows])

    def picture(self, name: str, path: Path) -> None:
        """Log it as an image."""
        self.logger.log_image(key=name, images=[str(path)])

    def file(self, artefact: Artefact, *, is_made: bool) -> None:
        """Log an Artifact that refers to files where they lie; the same content is the same version in every run."""
        found = resolve_name("wandb:Artifact")(artefact.name, artefact.kind, metadata={"digest": artefact.digest})
        for file in map(Path, artefact.files):
            name = file.relative_to(artefact.path).as_posix() if artefact.path.is_dir() else file.name
            found.add_reference(file.absolute().as_uri(), name=name)
        run = self.logger.experiment
        if is_made:
            run.log_artifact(found)
        else:  # what `use_artifact` does with a new artifact; offline it refuses, though such a record can wait too
            run._log_artifact(found, is_user_created=True, use_after_commit=True)

    def end(self, *, failed: bool = False) -> None:
        """Finish the run, as crashed where it failed."""
        self.logger.experiment.finish(exit_code=int(failed))


class MlflowTracker(Tracker):
    """Speaks to a run of MLflow, in a database file or on a server."""

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Tell what decides the result; of a run that goes on the command line may be another, so it is a tag."""
        told = dict(settings)
        self.texts({"overrides": " ".join(told.pop("overrides", ()))})
        super().settings(told)

    def curve(self, name: str, rows: Sequence[Mapping[str, float]], axis: str) -> None:
        """Tell all at once: each call is a transaction."""
        metric = resolve_name("mlflow.entities:Metric")
        found = [
            metric(key, value, 0, int(row[axis])) for row in rows for key, value in on_curve(name, row, axis).items()
        ]
        for start in range(0, len(found), MOST_METRICS):
            self._client.log_batch(self.logger.run_id, metrics=found[start : start + MOST_METRICS])

    def texts(self, values: Mapping[str, str]) -> None:
        """Tell them as tags."""
        for name, value in values.items():
            self._client.set_tag(self.logger.run_id, name, value)

    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Keep it among the run's artefacts as MLflow shows tables."""
        columns = {column: [row.get(column) for row in rows] for column in columns_of(rows)}
        self._client.log_table(self.logger.run_id, columns, f"tables/{name}.json")

    def picture(self, name: str, path: Path) -> None:
        """Keep it among the run's artefacts."""
        self._client.log_artifact(self.logger.run_id, str(path), f"pictures/{name}")

    def file(self, artefact: Artefact, *, is_made: bool) -> None:
        """Tell it as a data set, MLflow's word for what a run depends on, read or made."""
        entities = resolve_name("mlflow.entities")
        told = entities.Dataset(artefact.name, artefact.digest, artefact.kind, artefact.path.absolute().as_uri())
        context = entities.InputTag("mlflow.data.context", "made" if is_made else "read")
        self._client.log_inputs(self.logger.run_id, [entities.DatasetInput(told, [context])])

    def end(self, *, failed: bool = False) -> None:
        """Set the run's state."""
        self.logger.finalize("failed" if failed else "success")

    @property
    def _client(self) -> Any:
        return self.logger.experiment


class TensorboardTracker(Tracker):
    """Writes to a run of TensorBoard, which knows scalars, pictures and texts: tables and files are texts."""

    def texts(self, values: Mapping[str, str]) -> None:
        """Write them as texts."""
        for name, value in values.items():
            self.logger.experiment.add_text(name, value)

    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Write it as a table of Markdown."""
        columns = columns_of(rows)
        lines = [columns, ["---"] * len(columns), *([str(row.get(c, "")) for c in columns] for row in rows)]
        self.logger.experiment.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines))

    def picture(self, name: str, path: Path) -> None:
        """Write its pixels."""
        pixels = resolve_name("matplotlib.image:imread")(path)
        self.logger.experiment.add_image(name, pixels, dataformats="HWC")

    def file(self, artefact: Artefact, *, is_made: bool) -> None:
        """Write its name and hash."""
        tag = f"{'made' if is_made else 'read'}/{artefact.name}"
        self.logger.experiment.add_text(tag, f"{artefact.kind} {artefact.digest}")

    def end(self, *, failed: bool = False) -> None:
        """Close the file."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.logger.finalize("failed" if failed else "success")


def columns_of(rows: Sequence[Row]) -> list[str]:
    """List the columns that any row has, in order."""
    return list(dict.fromkeys(key for row in rows for key in row))


def on_curve(name: str, row: Mapping[str, float], axis: str) -> dict[str, float]:
    """Name the scalars of one row of a curve."""
    return {f"{name}/{key}": float(value) for key, value in row.items() if key != axis}


TRACKERS: Mapping[str, type[Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "tensorboard": TensorboardTracker,
}
"""By the name of the package, of the extra that brings it, and of `logger=`."""

"""Every setting of every job is in the job's fingerprint, or is marked as one that cannot change a result."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import pytest

from spaceevo.artifacts import Component, Leaf, fingerprint, identity, leaves
from spaceevo.jobs.runner import make_job
from spaceevo.space.description import conf_folder
from spaceevo.stages.job import Job
from tests.jobs.conftest import Compose

JOBS = sorted(file.stem for file in (conf_folder() / "stage").glob("*.yaml"))
NOT_YET = {"benchmark", "export", "profile"}
"""Not jobs yet."""

"""What mkdocs cannot read from a page: one page for each job from its settings, and the root's own documents."""

import inspect
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from spaceevo.errors import shortened
from spaceevo.jobs.help import heading, job_settings
from spaceevo.jobs.runner import job_type
from spaceevo.jobs.words import composed
from spaceevo.space.description import conf_files

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md", "changelog.md": "CHANGELOG.md"}
REPOSITORY_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./|docs/)?[\w./-]+)(#[\w-]+)?\)")
SMALLEST = "superspace=digits"  # whose recipe the defaults are shown of


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the jobs' pages into the navigation."""
    pages = [{f"+stage={name}": f"jobs/{name}.md"} for name in conf_files("stage")]
    config.nav = [{"Jobs": ["jobs.md", *pages]} if item == {"Jobs": "jobs.md"} else item for item in config.nav or ()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is written here."""
    for page, source in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "jobs.md", content=_jobs()))
    files.append(File.generated(config, "bad-inputs.md", content=_bad_inputs()))
    for name in conf_files("stage"):
        files.append(File.generated(config, f"jobs/{name}.md", content=_job(name)))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Turn links to what is not on the site (sources, experiments) into its path."""
    del page, config

    def on_site(link: re.Match[str]) -> str:
        words, target, anchor = link[1], link[2], link[3] or ""
        name = target.removeprefix("docs/")
        name = next((page for page, source in ROOT_PAGES.items() if Path(name).name == source), name)
        if files.get_file_from_path(name) is not None:
            return f"[{words}]({name}{anchor})"
        place = target.removeprefix("../")
        return words if (ROOT / place).exists() and words.strip("`/") == place.strip("/") else f"{words} (`{place}`)"

    return REPOSITORY_LINK.sub(on_site, markdown)


def _jobs() -> str:
    rows = [f"| [`+stage={name}`](jobs/{name}.md) | {heading(name)} |" for name in conf_files("stage")]
    return "\n".join(
        [
            "# Jobs",
            "",
            "What `+stage=` names, one page each, from the jobs' own settings.",
            "",
            "| job | |",
            "|---|---|",
            *rows,
        ]
    )


def _job(name: str) -> str:
    config = composed([f"+stage={name}", SMALLEST], None)
    job = job_type(config)
    rows = [
        f"| `{row.name}` | `{row.shown}` | {_cell(row.may_be)} | {_cell(row.meaning)} |" for row in job_settings(config)
    ]
    return "\n".join(
        [
            "---\nhide: [toc]\n---",
            f"# +stage={name}",
            "",
            inspect.getdoc(job) or "",
            "",
            "```sh",
            f"python -m spaceevo +stage={name} {SMALLEST}",
            "```",
            "",
            f"Values are those under `{SMALLEST}`; with `--help` behind it the command says the same in a terminal.",
            "",
            "| setting | value | allowed | |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _bad_inputs() -> str:
    """The wrong values that the tests give to jobs, and what these answer."""
    sys.path.insert(0, str(ROOT))  # where the tests are
    from tests.jobs.test_settings import CASES, fault

    rows = [f"| `+stage={job} {_cell(shortened(word, 60))}` | {_cell(fault(job, word))} |" for job, word in CASES]
    return "\n".join(
        [
            "---\nhide: [toc]\n---",
            "# Bad inputs",
            "",
            f"{len(rows)} settings that are refused before any work; `tests/jobs/test_settings.py` tries them all.",
            "Each ends in one line, `error: ` before it, and in exit code 1.",
            "",
            "| command | answer |",
            "|---|---|",
            *rows,
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")

"""Write a run's results as an RO-Crate, and check a folder against it.

The crate is a Process Run Crate (Workflow Run RO-Crate 0.5, https://w3id.org/ro/wfrun/process): one
action whose instrument is this version of clipaffect, whose objects are the run's settings and its
data by digest, and whose results are all files of the folder with their sha256. It is the run's own
record (``report/run.json``) in a form that repositories and other tools read.
"""

from __future__ import annotations

import json
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from clipaffect.core.errors import UserError
from clipaffect.core.hashing import file_digest
from clipaffect.report.compare_runs import flatten
from clipaffect.report.run_record import read_record

CRATE = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
# Not a function of inputs, settings and seeds (timings), or made of the run afterwards.
LEFT_OUT = ("timings", "studies", "model", "prediction")


@dataclass(frozen=True)
class Verified:
    """A results folder compared with its crate; paths are relative to the folder and sorted.

    Attributes:
        same: number of unchanged files.
        changed: files with another sha256.
        missing: files that the crate names and that are not there.
        added: files that the crate does not name.
    """

    same: int
    changed: list[str]
    missing: list[str]
    added: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether nothing differs."""
        return not (self.changed or self.missing or self.added)


def results(folder: Path) -> list[Path]:
    """The files that contain a run's numbers, or that they depend on."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != CRATE
        and not path.name.startswith(".")  # DVC's .gitignore
        and path.relative_to(folder).parts[0] not in LEFT_OUT
    ]


def write_crate(folder: Path) -> Path:
    """Write ``ro-crate-metadata.json`` of a finished run into its folder; returns its path.

    Raises:
        UserError: the folder holds no finished run, or a file was changed or lost since.
    """
    record = read_record(folder)
    _check_complete(folder, record["results"])
    versions = dict(record["versions"])
    crate = ROCrate()
    crate.name = f"clipaffect run '{record['config']['run']}'"
    crate.description = (
        "Facial expressions and action units from video: frozen features, CVaR + SAM heads, scores "
        "by the protocol that the report states."
    )
    # The licence of results is that of the data they come from, which the run cannot know.
    crate.license = "see the licence of the data"
    crate.root_dataset["conformsTo"] = crate.add(
        ContextEntity(
            crate, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
        )
    )
    files = [
        crate.add_file(
            path,
            dest_path=path.relative_to(folder).as_posix(),
            properties={
                "sha256": file_digest(path),
                "contentSize": str(path.stat().st_size),
                "encodingFormat": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            },
        )
        for path in results(folder)
    ]
    # No times: files that were pulled or copied do not tell when they were made.
    action = ContextEntity(crate, "#run", {"@type": "CreateAction", "name": crate.name})
    crate.add(action)
    instrument = _software(crate, "clipaffect", versions.pop("clipaffect"))
    instrument["softwareRequirements"] = [_software(crate, *v) for v in sorted(versions.items())]
    action["instrument"] = instrument
    action["object"] = [_value(crate, *item) for item in _inputs(record)]
    action["result"] = files
    crate.root_dataset["mentions"] = action
    crate.metadata.write(folder)
    return folder / CRATE


def _check_complete(folder: Path, expected: dict[str, str | None]) -> None:
    """Compare the files of a run with those of its report, by sha256 where the record has it."""
    found = {path.relative_to(folder).as_posix(): path for path in results(folder)}
    missing = sorted(expected.keys() - found)
    changed = sorted(
        name
        for name in expected.keys() & found
        if expected[name] is not None and file_digest(found[name]) != expected[name]
    )
    if missing or changed:
        listed = [f"{name} is missing" for name in missing]
        listed += [f"{name} is not the file that the run made" for name in changed]
        more = f", and {len(listed) - 5} more" if len(listed) > 5 else ""
        raise UserError(
            f"the run is not complete: {'; '.join(listed[:5])}{more}",
            where=folder,
            fix="run it again: only what is missing will be rebuilt; a changed file must be "
            "deleted first",
        )


def verify(folder: Path) -> Verified:
    """Hash a results folder again and compare it with its crate.

    Raises:
        UserError: there is no crate, or it was not written by this project.
    """
    path = folder / CRATE
    if not path.is_file():
        raise UserError(
            f"{CRATE} is missing",
            where=folder,
            fix=f"run 'clipaffect crate {folder}' when the run is finished",
        )
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))["@graph"]
        stated = {unquote(e["@id"]): e["sha256"] for e in graph if e.get("@type") == "File"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the file is not a crate with the sha256 of every file ({error!r})",
            where=path,
            fix="fetch it again, or write it again from trusted results",
        ) from error
    # Only files of the folder are hashed, whatever paths a crate names.
    found = {own.relative_to(folder).as_posix(): own for own in results(folder)}
    changed = [n for n in sorted(stated.keys() & found) if file_digest(found[n]) != stated[n]]
    return Verified(
        same=len(stated.keys() & found.keys()) - len(changed),
        changed=changed,
        missing=sorted(stated.keys() - found),
        added=sorted(found.keys() - stated),
    )


def _inputs(record: dict[str, Any]) -> list[tuple[str, Any]]:
    """Settings, stage versions, data and own code of a run's record, by dotted name."""
    kinds = {kind: record[kind] for kind in ("config", "stages", "data", "code")}
    return sorted(flatten(kinds).items())


def _value(crate: ROCrate, name: str, value: Any) -> ContextEntity:
    """A setting or a digest as a PropertyValue."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    entity = ContextEntity(
        crate, f"#{name}", {"@type": "PropertyValue", "name": name, "value": text}
    )
    crate.add(entity)
    return entity


def _software(crate: ROCrate, name: str, version: str) -> ContextEntity:
    entity = ContextEntity(
        crate,
        f"#software-{name}",
        {"@type": "SoftwareApplication", "name": name, "softwareVersion": version},
    )
    crate.add(entity)
    return entity

"""dvc.yaml -> a small frozen graph: stages, their outputs, what each reads. Nothing else defines the pipeline."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from orchestration.dvc_lock import LockBusy, patiently


@dataclass(frozen=True)
class Out:
    """One output of a stage: a table, a model or a bundle."""

    key: str  # its name in Dagster: the last part of its path, of a page quality.html quality_page
    path: str  # from the repository's root; holds the source's name
    description: str


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml."""

    name: str
    description: str
    cmd: str
    params: tuple[str, ...]  # sections of params.yaml
    inputs: tuple[Out, ...]  # outs of other stages
    files: tuple[str, ...]  # every other dep: the modules the stage is made of, raw logs
    outs: tuple[Out, ...]
    report: str | None  # the stage's JSON report
    figures: str | None = None  # the few of its figures that DVC compares between runs

    @property
    def package(self) -> str:
        """`features` of `exec python -m features.stages.ingest`."""
        return self.cmd.split()[-1].partition(".")[0]

    @property
    def beside(self) -> tuple[str, ...]:
        """Sections that it reads though no change of them makes it stale: what runs its units of work."""
        return ("engine",) if "features/engine" in self.files else ()

    @property
    def module(self) -> str:
        """The file that its command runs, from the repository's root: `features/stages/ingest.py`."""
        return f"{self.cmd.split()[-1].replace('.', '/')}.py"


@dataclass(frozen=True)
class Graph:
    """All stages, each after those whose outs it reads."""

    root: Path
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises KeyError where there is none."""
        return {stage.name: stage for stage in self.stages}[name]

    def up_to(self, name: str) -> tuple[Stage, ...]:
        """The stages that `dvc repro <name>` runs, upstream first: that one, and all that its inputs come from."""
        wanted: set[str] = set()
        found: list[Stage] = []
        for stage in reversed(self.stages):
            if stage.name == name or any(out.path in wanted for out in stage.outs):
                found.append(stage)
                wanted |= {out.path for out in stage.inputs}
        return tuple(reversed(found))

    @property
    def outs(self) -> tuple[Out, ...]:
        """Every out, upstream first."""
        return tuple(out for stage in self.stages for out in stage.outs)

    @property
    def sections(self) -> tuple[str, ...]:
        """Every section of params.yaml that some stage reads."""
        return tuple(sorted({section for stage in self.stages for section in stage.params}))


def read_graph(root: Path) -> Graph:
    """The graph as dvc.yaml and params.yaml stand now (paths hold the source's name). Raises LockBusy."""
    stages = patiently(lambda: _load(root))
    made = {out.path: out for stage in stages for out in stage.outs}
    linked = [
        replace(
            stage,
            inputs=tuple(made[path] for path in stage.files if path in made),
            files=tuple(path for path in stage.files if path not in made),
        )
        for stage in stages
    ]
    return Graph(root, _in_order(linked))


def _load(root: Path) -> list[Stage]:
    from dvc.dvcfile import ProjectFile
    from dvc.repo import Repo  # half a second that a plain import of this module should not cost
    from dvc.stage.loader import StageLoader
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

    try:
        with Repo(str(root)) as repo:
            file = ProjectFile(repo, str(root / "dvc.yaml"))
            stages = StageLoader(file, file.contents)  # without dvc.lock, whose parsing takes as long as all the rest
            return [_read_stage(root, stages[name]) for name in stages]
    except (YAMLSyntaxError, YAMLValidationError) as error:  # DVC is writing dvc.lock, or a merge left its marks
        raise LockBusy(
            f"{' '.join(str(error).split())}. If nothing writes there now, mend it or `git checkout` it"
        ) from error


def _read_stage(root: Path, stage: Any) -> Stage:
    from dvc.dependency.param import ParamsDependency

    description = (stage.desc or stage.name).strip()
    params, files, outs, report, figures = [], [], [], None, None
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            params += [name.partition(".")[0] for name in dep.params]
        else:
            files.append(_relative(root, dep))
    for out in stage.outs:
        path = _relative(root, out)
        if out.metric:
            figures = path
        elif not out.use_cache:
            report = path
        else:
            outs.append(Out(_key(PurePosixPath(path)), path, (out.annot.desc or description).strip()))
    return Stage(
        name=stage.name,
        description=description,
        cmd=stage.cmd,
        params=tuple(sorted(set(params))),
        inputs=(),
        files=tuple(sorted(files)),
        outs=tuple(outs),
        report=report or figures,
        figures=figures if report else None,
    )


def _key(path: PurePosixPath) -> str:
    return f"{path.stem}_page" if path.suffix == ".html" else path.name


def _relative(root: Path, out: Any) -> str:
    path = Path(out.fs_path)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(out.def_path)


def _in_order(stages: list[Stage]) -> tuple[Stage, ...]:
    """Upstream first; otherwise as in dvc.yaml. DVC has already refused cycles."""
    ordered: list[Stage] = []
    ready: set[str] = set()
    while len(ordered) < len(stages):
        for stage in stages:
            if stage not in ordered and all(out.path in ready for out in stage.inputs):
                ordered.append(stage)
                ready |= {out.path for out in stage.outs}
                break
        else:
            raise ValueError(f"dvc.yaml: stages depend on each other in a circle: {[s.name for s in stages]}.")
    return tuple(ordered)

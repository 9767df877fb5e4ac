"""One command over many files: each by itself, whole or not at all, in this process or in several."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeflow._version import __version__
from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._made import made_since
from modeflow.cli.commands._output import check_output, emit, refuse_data, say, warn

if TYPE_CHECKING:
    from modeflow.data.addresses import Listed

__all__ = ["EXIT_SOME", "Outcome", "over_files"]

#: Exit status where some of many files failed.
EXIT_SOME = 1
#: How often a file is tried again, or a pool is made anew, where a process dies.
_TRIES = 3


@dataclass(frozen=True)
class Outcome:
    """What a command has to say of one file.

    Attributes:
        result: plain values. lines: for people. rows: how many it read. mean: their likelihood, if that is
            what the command tells. Without a result nothing is printed.
    """

    result: Mapping[str, Any]
    lines: list[str]
    rows: int
    mean: Any = None


@dataclass(frozen=True)
class _Task:
    """A file for a worker: plain values alone. Done twice it leaves the same file."""

    command: str
    options: Mapping[str, Any]
    file: str
    out: str | None


def over_files(
    args: argparse.Namespace, command: str, handle: Callable[[argparse.Namespace, Any], Outcome]
) -> int:
    """Run a command on DATA: a single source, or every table that a pattern, a folder or an address names.

    Of many files each has an output of its own in the folder ``-o``; one that is there is not made again
    (``--overwrite`` makes it), and those of another command are refused. A file that cannot be read is said
    and passed over.

    Returns:
        0, or `EXIT_SOME` where a file failed.
    """
    fitted = open_run(args)
    files = _files_of(args.data) if fitted.estimator.domain_.of_tables else None
    if files is not None:
        return _many(args, command, files)
    check_output(args)
    outcome = handle(args, fitted)
    if outcome.result:
        emit(args, dict(outcome.result), outcome.lines)
    return 0


def _files_of(source: str) -> list[Listed] | None:
    """The tables that DATA names; None where it is a single source."""
    from modeflow.data.addresses import Listed, addresses_of, is_address
    from modeflow.data.parts import files_of

    if is_address(source):
        return addresses_of(source)
    if (files := files_of(source)) is None:
        return None
    root, stats = os.path.commonpath([file.parent for file in files]), [file.stat() for file in files]
    return [
        Listed(str(file), file.relative_to(root), stat.st_size, stat.st_mtime_ns)
        for file, stat in zip(files, stats, strict=True)
    ]


def _many(args: argparse.Namespace, command: str, files: list[Listed]) -> int:
    from modeflow.metrics import LogLikelihood, pooled
    from modeflow.progress import track

    targets = _targets(args.out, files, command)
    since = made_since(args, command, [target for target in targets.values() if target is not None])
    left = [file for file in files if args.overwrite or not _is_done(targets[file.name], file, since)]
    options = {k: v for k, v in vars(args).items() if k not in ("run", "data", "out")}
    options |= {"json": False, "quiet": True, "of_many": True}
    tasks = [_Task(command, options, file.name, targets[file.name]) for file in left]
    done: list[tuple[str, Outcome]] = []
    failed: list[tuple[str, str]] = []
    sizes = {file.name: file.size for file in left}
    for file, outcome in track(_engine(args)(tasks, args.jobs), command, weights=lambda each: sizes[each[0]],
                               total=sum(sizes.values())):  # fmt: skip
        if isinstance(outcome, str):
            failed.append((file, outcome))
            warn(f"skipped '{file}': {outcome}")
        else:
            done.append((file, outcome))
    done.sort(key=lambda pair: pair[0])
    failed.sort()
    rows, there = sum(outcome.rows for _, outcome in done), len(files) - len(left)
    means = [outcome.mean for _, outcome in done if outcome.mean is not None]
    result = {
        "run": args.run_folder,
        "data": args.data,
        "rows": rows,
        "files": [dict(outcome.result) for _, outcome in done],
        "files_failed": [{"data": file, "reason": reason} for file, reason in failed],
        "files_already_there": there,
        "out": args.out,
    }
    lines = [f"{len(done)} files, {rows} rows"]
    if means and all(isinstance(mean, LogLikelihood) for mean in means):
        mean = pooled(means)
        result["log_likelihood"] = mean.to_dict()
        lines.append(f"mean log-density   {mean}")
    if there:
        lines.append(f"{there} files were there already: --overwrite makes them again")
    if failed:
        lines.append(f"{len(failed)} of {len(files)} files failed")
    if args.out:
        say(args, f"wrote {len(done)} files to {args.out}")
    emit(args, result, lines)
    return EXIT_SOME if failed else 0


def _targets(out: str | None, files: list[Listed], command: str) -> dict[str, str | None]:
    """Where the output of every file goes: a file of its name, and of its kind where that is written."""
    from modeflow.data import check_writable
    from modeflow.errors import ConfigError

    if out is None:
        if command == "impute":
            raise ConfigError("many filled tables are not printed: say with -o FOLDER where they go")
        return dict.fromkeys(file.name for file in files)
    folder = Path(out).expanduser()
    if out == "-" or folder.is_file() or (folder.suffix and not folder.is_dir()):
        raise ConfigError(
            f"DATA names {len(files)} files, each with an output of its own: -o must name a folder"
        )
    found: dict[str, str | None] = {}
    taken: set[str] = set()
    for file in files:
        place = folder / file.place
        target = place if place.suffix.lower() in (".csv", ".tsv", ".parquet") else place.with_suffix(".csv")
        found[file.name] = name = f"{place}.csv" if str(target) in taken else str(target)
        taken.add(name)
    refuse_data(taken, [file.name.removeprefix("file://") for file in files])
    if not folder.is_dir():
        check_writable(folder)
    check_writable(folder / "any")
    return found


def _is_done(target: str | None, file: Listed, since: int) -> bool:
    """Whether an output is there, of this command, and not older than what it is made of.

    Arguments:
        since: when the first of this command was made, or later, ns.
    """
    try:
        return target is not None and os.stat(target).st_mtime_ns >= max(file.modified, since)
    except OSError:
        return False


# --- workers --------------------------------------------------------------------------------------

_Results = Iterator[tuple[str, "Outcome | str"]]


def _engine(args: argparse.Namespace) -> Callable[[list[_Task], int], _Results]:
    from modeflow.errors import ConfigError

    if args.jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, received {args.jobs}")
    if args.engine == "ray":
        return _by_ray
    return _here if args.jobs == 1 else _by_processes


def _here(tasks: list[_Task], jobs: int) -> _Results:
    for task in tasks:
        yield task.file, _do(task)


def _by_processes(
    tasks: list[_Task], jobs: int, work: Callable[[_Task], Outcome | str] | None = None
) -> _Results:
    """In processes of this machine; where one dies, its file and those that waited are given to new ones."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    context, left = multiprocessing.get_context("spawn"), {task.file: task for task in tasks}
    for _ in range(_TRIES + 1):
        if not left:
            return
        with ProcessPoolExecutor(min(jobs, len(left)), context, _begin, (jobs,)) as pool:
            futures = {pool.submit(work or _do, task): task for task in left.values()}
            for future in as_completed(futures):
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    continue
                del left[futures[future].file]
                yield futures[future].file, outcome
    for file in left:
        yield file, f"a process died at it or beside it {_TRIES + 1} times: try --jobs 1"


def _begin(jobs: int) -> None:
    """A worker begins: with its share of the threads, and it ends when the command does.

    A pool ends its workers only if it lives to do so: those of a command that was killed would wait for files
    for ever, with the model in memory.
    """
    import multiprocessing
    import threading

    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    command = multiprocessing.parent_process()

    def end() -> None:
        if command is not None:
            command.join()
            os._exit(EXIT_SOME)

    threading.Thread(target=end, daemon=True).start()


def _by_ray(tasks: list[_Task], jobs: int) -> _Results:
    """By Ray, on the cluster of RAY_ADDRESS or on this machine; all machines have the files at these paths.

    A worker that dies is replaced, and its file done again, by Ray itself.
    """
    from modeflow.errors import ConfigError

    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'modeflow[ray]'") from error
    started = not ray.is_initialized()
    if started:
        # Of its own where none is named: otherwise Ray takes whatever was begun on this machine before.
        where = os.environ.get("RAY_ADDRESS")
        own = {} if where else {"address": "local", "num_cpus": jobs, "include_dashboard": False}
        try:
            _reach(where)
            ray.init(log_to_driver=False, configure_logging=False, **own)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ConfigError(_no_ray(where, error)) from error
    work, folder = ray.remote(num_cpus=1, max_retries=_TRIES)(_do_in), os.getcwd()
    try:
        waiting, flying = list(reversed(tasks)), dict[Any, _Task]()
        while waiting or flying:
            while waiting and len(flying) < 4 * max(jobs, 1):
                task = waiting.pop()
                flying[work.remote(folder, task)] = task
            ready, _ = ray.wait(list(flying), num_returns=1)
            task = flying.pop(ready[0])
            try:
                outcome: Outcome | str = ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:  # it lives, and cannot even begin
                why = str(error.cause or error).splitlines()[-1]
                outcome = f"a worker cannot do it ({why}): is modeflow {__version__} on all machines?"
            except ray.exceptions.RayError as error:
                outcome = f"a worker died at it {_TRIES + 1} times ({str(error).splitlines()[0]})"
            yield task.file, outcome
    finally:
        if started:
            ray.shutdown()


def _reach(where: str | None) -> None:
    """Refuse an address that nobody listens on (`OSError`), which Ray itself would ask for ten minutes."""
    host, _, port = (where or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


def _no_ray(where: str | None, error: Exception) -> str:
    """That there is no Ray, why, and what to do."""
    why = next(iter(str(error).splitlines()), type(error).__name__).strip().rstrip(".")
    if where is None:
        return f"Ray does not start here ({why}): --jobs N needs no Ray"
    return (
        f"no answer from the Ray cluster at RAY_ADDRESS={where} ({why}): is it running? If it asks for a "
        "token, as Ray does by default, set RAY_AUTH_MODE=token here, with the cluster's ~/.ray/auth_token"
    )


def _do_in(folder: str, task: _Task) -> Outcome | str:
    """The same in a process that may have begun elsewhere: paths are those of the command's folder."""
    with suppress(OSError):  # a machine without it, and paths from the root
        os.chdir(folder)
    return _do(task)


def _do(task: _Task) -> Outcome | str:
    """What a command has to say of a file; or, in words, why it could not be done."""
    from modeflow.cli.main import one_line_warning
    from modeflow.data.addresses import copied, is_address
    from modeflow.errors import ModeflowError

    args = argparse.Namespace(**task.options, data=task.file, out=task.out)
    if task.out is not None:
        _tidy(Path(task.out))
    try:
        with warnings.catch_warnings():
            warnings.showwarning = one_line_warning
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            module = importlib.import_module(f"modeflow.cli.commands.{task.command}")
            opened, far = _opened(args.run_folder, args.device), is_address(task.file)
            with copied(task.file) if far else nullcontext(task.file) as file:
                args.data = str(file)
                outcome: Outcome = module.handle(args, opened)
            return replace(outcome, result={**outcome.result, "data": task.file}) if far else outcome
    except ModeflowError as error:
        return " ".join(str(error).split())
    except OSError as error:
        return f"{error.strerror or error}"


@lru_cache(maxsize=1)
def _opened(run_folder: str, device: str | None) -> Any:
    """The run, once in every process."""
    return open_run(argparse.Namespace(run_folder=run_folder, device=device, quiet=True, json=False))


def _tidy(target: Path) -> None:
    """Take away what a process that was killed left of this file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for piece in target.parent.glob(f".{target.name}.*"):
        if piece.is_dir():
            shutil.rmtree(piece, ignore_errors=True)
        else:
            piece.unlink(missing_ok=True)

"""The commands and their options. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any, NoReturn

from modeflow._version import __version__
from modeflow.cli.arguments import Parser
from modeflow.cli.filling import add_filling

__all__ = ["build_parser", "usual"]

DESCRIPTION = """Density estimation and generation for data with many isolated modes.

DATA is a .csv, .tsv, .txt, .dat, .parquet, .npy, .npz or .h5 file (- for text from stdin), a folder of such
tables or a pattern of their names in quotes ('folder/*.csv'), a folder of images (or a .npy array of them),
or a name listed by `modeflow data`.
RUN is the folder that `modeflow fit` writes."""

EPILOG = """examples:
  modeflow demo                                    the main job on embedded data
  modeflow fit table.csv -o run                    fit a density; the number of states is chosen
  modeflow report run                              run/report.html
  modeflow score run new.csv -o scores.csv         log-density of every row
  modeflow anomalies run new.csv -o odd.csv        p-values, and which columns make a row odd
  modeflow sample run -n 1000 -o samples.csv       new rows"""


def _settings_help() -> str:
    """All settings of a fit, read from where they are defined: looked up only for ``fit --help``."""
    from modeflow.runs.settings_help import settings_help

    return settings_help()


class _Version(argparse.Action):
    """Which kernels are active is known to the kernels: looked up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from modeflow.native import native_kernels

        print(f"modeflow {__version__} (native kernels: {native_kernels()})")
        parser.exit()


def _command(name: str) -> Callable[[argparse.Namespace], Any]:
    """The function `run` of `modeflow.cli.commands.<name>`, imported when it is called."""

    def run(args: argparse.Namespace) -> Any:
        return importlib.import_module(f"modeflow.cli.commands.{name}").run(args)

    return run


def usual(command: str, *arguments: str) -> dict[str, Any]:
    """What a command is told by these arguments alone, for commands that do the work of others."""
    return vars(build_parser().parse_args([command, *arguments]))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="modeflow",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="version, and the native kernels in use")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, summary: str, example: str) -> Parser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        sub.add_argument("--quiet", action="store_true", help="no progress, no closing remarks")
        sub.set_defaults(run=_command(name))
        return sub

    def files(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--header", action=argparse.BooleanOptionalAction, default=None,
            help="the first line of a text file names the columns, or is a row (found out by default)",
        )  # fmt: skip
        sub.add_argument("--skip-text", action="store_true", help="leave out columns of text, and name them")

    def many(sub: argparse.ArgumentParser) -> None:
        """Options for DATA that is a pattern or a folder of tables."""
        sub.add_argument("--jobs", type=int, default=1, metavar="N", help="many files: N processes (1)")
        sub.add_argument(
            "--engine", choices=("processes", "ray"), default="processes",
            help="who runs them: processes of this machine (default), or Ray, on one or on many",
        )  # fmt: skip
        sub.add_argument(
            "--overwrite", action="store_true", help="many files: also make outputs that are there already"
        )

    def seed_and_device(sub: argparse.ArgumentParser, seed: str = "0") -> None:
        """`seed`: which it is by default; none is offered where that is empty."""
        if seed:
            sub.add_argument(
                "--seed", type=int, default=None, metavar="N",
                help=f"seed of all randomness (default {seed})",
            )  # fmt: skip
        sub.add_argument("--device", default=None, metavar="D", help="auto (default), cpu or cuda")

    demo = add(
        "demo",
        "the main job on embedded data: fit, score, sample, fill missing cells, report",
        "modeflow demo -o my-demo\n  modeflow demo images",
    )
    demo.add_argument(
        "what", nargs="?", choices=("table", "images"), default="table", help="a table (default), or images"
    )
    demo.add_argument(
        "-o", "--out", default=None, metavar="FOLDER",
        help="where to write (default modeflow-demo, modeflow-demo-images)",
    )  # fmt: skip
    seed_and_device(demo)

    schema = add(
        "schema",
        "what each column of a table is taken for, as YAML to read and edit",
        "modeflow schema table.csv                    print it, with remarks on stderr\n"
        "  modeflow schema table.csv -o schema.yaml     write it\n"
        "  modeflow schema table.csv --columns age,city > schema.yaml\n\n"
        "kinds: real, positive, bounded(0..1), circular(360), integer, lattice(0.01), categorical, boolean,\n"
        "ordinal(low < mid < high), datetime, constant (set aside), id (names rows: refused), drop",
    )
    schema.add_argument("data", metavar="DATA", help="table, or a name listed by `modeflow data`")
    schema.add_argument("-o", "--out", default=None, metavar="FILE", help="write it here (- for stdout)")
    schema.add_argument("--columns", metavar="A,B,...", help="only these columns")
    schema.add_argument(
        "--header", action=argparse.BooleanOptionalAction, default=None,
        help="the first line of a text file names the columns, or is a row (found out by default)",
    )  # fmt: skip
    schema.add_argument("--array", metavar="NAME", help="array to read from .npz or .h5")

    fit = add(
        "fit",
        "fit a density to a table or images and write a run folder",
        "modeflow fit table.csv -o run --set n_states=8 --set flow_options.layers=4\n"
        "  modeflow fit -o run --resume                 go on after an interruption\n"
        "  modeflow fit --config run/config.yaml -o again    repeat a run\n\n"
        "images (DATA is a folder of them, a .npy array, or images/...), where models are nvf, vae,\n"
        "discrete-vae, vq-vae, and flows of images such as glow:\n"
        "  modeflow fit images/digits -o run            NVF with a map of codes\n"
        "  modeflow fit photos/ -o run --model vq-vae --set size=32 --set bits=5",
    )
    fit.more_help = _settings_help
    fit.add_argument(
        "data", nargs="?", metavar="DATA",
        help="table, several (a pattern such as 'folder/*.csv', or their folder), images, or a name "
        "listed by `modeflow data`",
    )  # fmt: skip
    fit.add_argument("-o", "--out", required=True, metavar="RUN", help="run folder to write")
    fit.add_argument("--model", metavar="NAME", help="nvf (default), or a flow listed by `modeflow models`")
    fit.add_argument("--config", metavar="FILE", help="YAML file of settings (or another RUN)")
    fit.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
        help="one setting, such as max_epochs=50; may be repeated",
    )  # fmt: skip
    fit.add_argument("--columns", metavar="A,B,...", help="use only these columns")
    fit.add_argument(
        "--schema", metavar="FILE", help="what each column is: from `modeflow schema DATA -o FILE`, edited"
    )
    fit.add_argument("--rows", type=int, metavar="N", help="use N random rows (toys: draw N)")
    files(fit)
    fit.add_argument(
        "--drop-missing", action="store_true", help="leave out rows with missing cells, and count them"
    )
    fit.add_argument(
        "--no-detector", action="store_true",
        help="of numbers: without the detector that `modeflow anomalies` ranks by (seconds)",
    )  # fmt: skip
    fit.add_argument(
        "--stream", action=argparse.BooleanOptionalAction, default=None,
        help="read DATA in parts and train from the run folder, or hold it in memory; by default many files "
        "are streamed, and one of more than 256 MB of text or 33 million cells",
    )  # fmt: skip
    fit.add_argument("--array", metavar="NAME", help="array to read from .npz or .h5")
    fit.add_argument("--test", metavar="SHARE|FILE", help="test rows: a share (0.1) or a file")
    fit.add_argument("--validation", metavar="SHARE|FILE", help="validation rows: a share (0.1) or a file")
    fit.add_argument("--resume", action="store_true", help="go on with the interrupted run in RUN")
    seed_and_device(fit)
    fit.add_argument(
        "--devices", type=int, metavar="N", help="train on N devices, or in N processes of the cpu (1)"
    )

    score = add(
        "score",
        "log-density of every row",
        "modeflow score run new.csv -o scores.csv\n"
        "  modeflow score run 'folder/*.parquet' -o scores --jobs 2\n"
        "  modeflow score run 's3://bucket/*.parquet' -o scores --engine ray --jobs 8\n\n"
        "A row with a missing, infinite or text cell scores NaN; how many and why is said on stderr.\n"
        "Of many files each has an output of its name in the folder -o; what is there and not older than\n"
        "its file and the model is not made again.\n"
        "exit status: 0 where at least one row was scored, 1 where some of many files failed,\n"
        "2 where no row was scored, or the columns differ",
    )
    score.add_argument("run_folder", metavar="RUN")
    score.add_argument("data", metavar="DATA")
    score.add_argument("-o", "--out", metavar="FILE", help="write one log-density a row (- for stdout)")
    files(score)
    many(score)
    score.add_argument("--columns", metavar="A,B,...", help="read only these columns of DATA")
    seed_and_device(score, seed="")

    anomalies = add(
        "anomalies",
        "the odd rows, with p-values and the columns that make them odd",
        "modeflow anomalies run new.csv               the oddest rows, and why\n"
        "  modeflow anomalies run new.csv -o odd.csv    every row's p-value; of odd ones each column's part\n"
        "  modeflow anomalies run new.csv --top 20 --json\n"
        "  modeflow anomalies run photos/ -o odd.csv    of images p-values, and odd.png\n\n"
        "A p-value is the rank of a row's score among the test rows of the run, to which nothing was\n"
        "fitted: of usual rows a share A has one of at most A. Ask it of rows that were not fitted.\n"
        "The score of complete numbers is their density through noise, by the detector of the run,\n"
        "of other rows the density of the run (--by).\n"
        "nats_COLUMN is -log p(cell | other cells of the row), less what that is on average.",
    )
    anomalies.add_argument("run_folder", metavar="RUN")
    anomalies.add_argument("data", metavar="DATA")
    anomalies.add_argument(
        "-o", "--out", metavar="FILE", help="write a line a row (.csv, .tsv, .parquet; - for stdout)"
    )
    anomalies.add_argument(
        "--alpha", type=float, default=0.05, metavar="A",
        help="rows with a p-value of at most A are odd, and explained (0.05)",
    )  # fmt: skip
    anomalies.add_argument(
        "--top", type=int, default=None, metavar="N", help="explain and write the N oddest rows alone"
    )
    anomalies.add_argument(
        "--by", choices=("noise", "density"), default=None,
        help="rank by density through noise (the detector of a run of numbers; the default where it has one) "
        "or by the density of the run",
    )  # fmt: skip
    files(anomalies)
    many(anomalies)
    anomalies.add_argument("--columns", metavar="A,B,...", help="read only these columns of DATA")
    seed_and_device(anomalies, seed="")

    sample = add("sample", "draw new rows", "modeflow sample run -n 1000 -o samples.csv --state 3")
    sample.add_argument("run_folder", metavar="RUN")
    sample.add_argument(
        "-n", type=int, default=None, metavar="N", help="how many (default 1000 rows, or 64 images)"
    )
    sample.add_argument(
        "-o", "--out", metavar="FILE",
        help="write the rows (.csv, .parquet, .npy, ...; - for stdout); images as .png and .npy",
    )  # fmt: skip
    sample.add_argument(
        "--temperature", type=float, default=1.0, metavar="T",
        help="spread of the noise; 1 (default) samples the density, less gives likelier rows or images",
    )  # fmt: skip
    sample.add_argument(
        "--prior-temperature", type=float, default=1.0, metavar="T", help="the same for the latent"
    )
    sample.add_argument("--state", type=int, metavar="K", help="only from this state")
    sample.add_argument("--with-state", action="store_true", help="add a column `state`")
    sample.add_argument("--given", metavar="A=1,B=x", help="rows that have these cells (of tables)")
    seed_and_device(sample, "that of the fit: the same rows each time")

    assign = add(
        "assign",
        "z of every row: posterior over the states (modes), codes, or the place on a continuous latent",
        "modeflow assign run table.csv -o modes.csv\n"
        "  modeflow assign run 'folder/*.parquet' -o modes --jobs 2",
    )
    assign.add_argument("run_folder", metavar="RUN")
    assign.add_argument("data", metavar="DATA")
    assign.add_argument(
        "-o", "--out", metavar="FILE", help="write state and probabilities per row (- for stdout)"
    )
    files(assign)
    many(assign)
    assign.add_argument("--columns", metavar="A,B,...", help="read only these columns of DATA")
    seed_and_device(assign, seed="")

    add_filling(add, files, many, seed_and_device)

    report = add("report", "a page about a run: RUN/report.html", "modeflow report run")
    report.add_argument("run_folder", metavar="RUN")
    report.add_argument("-o", "--out", metavar="FILE", help="where to write (default RUN/report.html)")
    report.add_argument("--no-baselines", action="store_true", help="do not fit the models to compare with")
    seed_and_device(report, seed="")

    def served(sub: argparse.ArgumentParser, port: int) -> None:
        sub.add_argument("run_folder", metavar="RUN")
        sub.add_argument(
            "--port", type=int, default=port, metavar="N", help=f"0: any that is free (default {port})"
        )
        sub.add_argument(
            "--max-rows", type=int, default=10_000, metavar="N", help="rows of a request (10000)"
        )
        sub.add_argument(
            "--max-megabytes", type=float, default=16.0, metavar="MB", help="size of a request (16)"
        )

    serve = add(
        "serve",
        "answer requests over HTTP: score, sample, impute, assign",
        "modeflow serve run                           on http://127.0.0.1:8765, for this machine alone\n"
        "  curl -s localhost:8765/score -H 'Content-Type: application/json' \\\n"
        '       -d \'{"rows": [{"age": 40, "city": "Rome"}]}\'\n'
        "  modeflow serve run --host 0.0.0.0 --token-file token      for others, who send the token\n\n"
        "GET /health /version /model /openapi.json; POST /score /sample /impute /assign /reasons.\n"
        "Needs pip install 'modeflow[serve]'.",
    )
    served(serve, 8765)
    serve.add_argument(
        "--host", default="127.0.0.1", metavar="H",
        help="address to listen on (default 127.0.0.1); requests to any but loopback need a token",
    )  # fmt: skip
    serve.add_argument(
        "--token-file", metavar="FILE",
        help="holds the token that requests send (or the environment's MODEFLOW_TOKEN; else one is made)",
    )  # fmt: skip
    seed_and_device(serve, seed="")

    reproduce = add(
        "reproduce",
        "fit what a paper fitted, and set the result beside its number",
        "modeflow reproduce                           the experiments there are\n"
        "  modeflow reproduce nsf-coupling-power        into runs/nsf-coupling-power; again: it goes on\n"
        "  modeflow reproduce nvf-fashion-mnist -o run --set max_epochs=1",
    )
    reproduce.add_argument(
        "experiment", nargs="?", metavar="EXPERIMENT", help="its name; without one all are listed"
    )
    reproduce.add_argument("-o", "--out", metavar="RUN", help="run folder (default runs/EXPERIMENT)")
    reproduce.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
        help="one setting that is not as in the paper; may be repeated",
    )  # fmt: skip
    seed_and_device(reproduce)

    explore = add(
        "explore",
        "a page to play with a model: data beside samples, conditions, reasons, a csv to score",
        "modeflow explore run                         on http://127.0.0.1:8766, for this machine alone\n\n"
        "Data beside samples and the density; states, conditions, reasons, files to score.\n"
        "Needs pip install 'modeflow[explore]'.",
    )
    served(explore, 8766)
    seed_and_device(explore, seed="")

    export = add(
        "export",
        "the density as a file that other programs evaluate: ONNX or torch.export",
        "modeflow export run --to model.onnx          for onnxruntime\n"
        "  modeflow export run --to model.pt2           for torch.export.load\n\n"
        "The file takes rows in the units of the data, float64 (N, D), any N, and gives log p of each, as\n"
        "`modeflow score` does. Couplings, autoregressive layers, states and trees of them; images,\n"
        "a continuous latent and columns on lattices are refused. .onnx needs\n"
        "pip install 'modeflow[onnx]'.",
    )
    export.add_argument("run_folder", metavar="RUN")
    export.add_argument("--to", required=True, metavar="FILE", help="file to write, .onnx or .pt2")
    export.add_argument(
        "--precision", choices=("float64", "float32"), default="float64",
        help="of the model (float64): equal to 1e-6 of a score, float32 to 1e-2",
    )  # fmt: skip
    export.set_defaults(device=None)

    add("models", "the models there are, each with its paper and its cost", "modeflow models --json")

    bench = add(
        "bench",
        "our speed beside that of the flow libraries installed",
        "modeflow bench --launches 5 -o bench.json",
    )
    bench.add_argument("--launches", type=int, default=3, metavar="N", help="processes of each (3)")
    bench.add_argument("--threads", type=int, default=None, metavar="N", help="all cores by default")
    bench.add_argument("--case", metavar="NAME", help="only this case, such as 'coupling, small'")
    bench.add_argument("--alone", action="store_true", help="ours only, without the other libraries")
    bench.add_argument("-o", "--out", metavar="FILE", help="write all times and ratios as JSON")

    completion = add(
        "completion",
        "what a shell reads to complete commands and options with the tab key",
        'eval "$(modeflow completion bash)"            in ~/.bashrc; zsh: in ~/.zshrc\n'
        "  modeflow completion fish > ~/.config/fish/completions/modeflow.fish",
    )
    completion.add_argument("shell", nargs="?", choices=("bash", "zsh", "fish"), default="bash")

    data = add("data", "the data sets there are; download one", "modeflow data download power")
    data.add_argument("action", nargs="?", choices=("list", "download"), default="list")
    data.add_argument("name", nargs="?", help="benchmark to download")
    return parser

"""The command line: `knowledge-transfer`, or `python -m flows` in a checkout.

Each command checks what the user gave before it imports Prefect. Only dry runs and `predict` import torch in
this process.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from data.errors import ConfigError, Interrupted, there
from data.reading import MAX_PIXELS
from data.secrets import mask_all
from data.store import Store
from flows.ending import always_end
from flows.phrases import summary
from flows.recipes import NAMES, nest, override, parse_settings, quick, recipe
from flows.run import WATCHERS
from flows.start import chain_parameters, explain, load_flow
from flows.terminal import Terminal
from models.export import FORMATS
from tasks.config import USUAL, Config, measurable, protocols
from tasks.found import on_photographs
from tasks.overlay import methods

PROGRAM = "knowledge-transfer"


class _Parser(argparse.ArgumentParser):
    """A parser that reports a wrong argument in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


class _Version(argparse.Action):
    """Print the version of the installed distribution, and end."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        try:
            print(f"{PROGRAM} {version(PROGRAM)}")
        except PackageNotFoundError:
            raise ConfigError(
                f"--version: the package {PROGRAM} is not installed here; install it with scripts/install"
            ) from None
        parser.exit()


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments. The default is the arguments of the process.

    Returns:
        The exit status: 0 for success, 1 if the run failed, 2 if the user made a mistake, 130 if interrupted.
    """
    given = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding must not stop a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    terminal = Terminal()
    try:
        options = parser().parse_args(given)
        signal.signal(signal.SIGTERM, _interrupt)
        always_end(partial(_give_up, Interrupted("stopped"), terminal, "--json" in given))
        status: int = options.command(options, terminal)
    except BrokenPipeError:  # the reader of our output closed the pipe
        sys.stderr.close()
        return 1
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        return _fail(error, terminal, as_json="--json" in given)
    return status


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _fail(error: BaseException, terminal: Terminal, as_json: bool) -> int:
    run, failure = terminal.run, explain(error, terminal.run)
    print(f"{failure.details}{PROGRAM}: {failure.text}", file=sys.stderr)
    if as_json:
        folder = str(run.folder) if run else None
        print(json.dumps({"status": failure.kind, "error": failure.text, "folder": folder}))
    return failure.status


def _give_up(error: BaseException, terminal: Terminal, as_json: bool) -> NoReturn:
    """End the process from another thread than the main one, which waits for something that never comes."""
    from flows.server.embedded import STARTED

    if terminal.run is not None:
        terminal.run.give_up(error)
        terminal.end(terminal.run, None, error)
    for server in STARTED:
        server.kill()
    status = _fail(error, terminal, as_json)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. docs/commands.md shows what it takes."""
    top = _Parser(
        PROGRAM,
        description="From unlabelled images and a handful of labels to a small, accurate model.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=run)
        return sub

    def configurable(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            dest="settings",
            help="change a key, such as cluster.k=50; may be repeated",
        )

    def storing(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--store", metavar="DIR", help="folder of the store (default: store)")

    def printing(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--json", action="store_true", help="print one JSON object on stdout, progress on stderr"
        )

    sub = command("run", _run, "run the whole chain")
    sub.add_argument(
        "recipe",
        nargs="?",
        default="digits",
        metavar="RECIPE",
        help="a name that `list` shows, or a YAML file (default: digits)",
    )
    sub.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="minutes that a run of the recipe photos may take (same as --set plan.minutes=N)",
    )
    configurable(sub)
    storing(sub)
    sub.add_argument(
        "--quick",
        action="store_true",
        help="leave out the baseline and every evaluation but few-label, the accuracy of the trained "
        "networks; --set wins",
    )
    sub.add_argument(
        "--dry-run",
        nargs="?",
        const="look",
        choices=["look", "full"],
        help="show what was understood of the images, what the run would do, how large it is and what it "
        "costs; =full reads all images, else images are read for 5 seconds",
    )
    printing(sub)
    command("list", _list, "show recipes, methods, backbones, data sources and evaluations")
    sub = command("show", _show, "print a recipe's full configuration as YAML that `run` accepts")
    sub.add_argument("recipe", metavar="RECIPE", help="a name that `list` shows, or a YAML file")
    configurable(sub)
    sub.add_argument(
        "--changed",
        action="store_true",
        help="print only the keys that differ: of a recipe, from the defaults; of a YAML file or with --set, "
        "from the recipe that it started from",
    )
    sub.add_argument("--plain", action="store_true", help="print no comments, for diff and other programs")
    sub = command("report", _report, "write a run's report.html again")
    sub.add_argument("run", metavar="RUN", help="a run's name in the store, or its folder")
    storing(sub)
    sub = command("export", _export, "write the model that a run ships for other programs, with a card")
    sub.add_argument("run", metavar="RUN", help="a run's name in the store, or its folder")
    sub.add_argument(
        "--to", required=True, metavar="DIR", help="folder to write: new, or of an earlier export"
    )
    sub.add_argument(
        "--format",
        metavar="NAME,...",
        help=f"formats to write, of {', '.join(FORMATS)} (default: all that suit the network and whose "
        "packages are installed)",
    )
    configurable(sub)
    storing(sub)
    printing(sub)
    sub = command("evaluate", _evaluate, "measure one model: nearest neighbours, linear probe, accuracy")
    sub.add_argument(
        "model",
        metavar="MODEL",
        help="a run's folder (the model that it ships), a checkpoint's folder or any folder with "
        "model.safetensors and model.json, or a file that export wrote",
    )
    sub.add_argument(
        "--data", metavar="SOURCE", help="labelled training images, for the neighbours and the probe"
    )
    sub.add_argument("--test", metavar="SOURCE", help="test images (default: 20 %% of --data held out)")
    sub.add_argument(
        "--voc",
        metavar="SOURCE",
        help="photographs with boxes or masks (voc:PATH), to train the model further on them",
    )
    sub.add_argument(
        "--protocols",
        nargs="+",
        choices=list(measurable()),
        metavar="NAME",
        help=f"evaluations to run: {', '.join(measurable())} (default: {', '.join(USUAL)}; of an exported "
        "file only few-label)",
    )
    storing(sub)
    printing(sub)
    sub = command("predict", _predict, "name the classes of images, with calibrated probabilities")
    sub.add_argument(
        "model",
        metavar="MODEL",
        help="a run's name in the store or its folder (the model that it ships), a checkpoint's folder, or "
        "what export wrote (.onnx, .pt2, weights)",
    )
    sub.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders, archives, or sources that `list` shows, such as parquet:PATH",
    )
    sub.add_argument(
        "--out",
        metavar="FILE",
        help="write one row per image to FILE, which ends with .parquet or .csv (default: show the first 20)",
    )
    sub.add_argument(
        "--top", type=int, default=2, metavar="N", help="number of most likely classes (default: 2)"
    )
    sub.add_argument("--all", action="store_true", help="give the probability of every class")
    sub.add_argument(
        "--embeddings",
        action="store_true",
        help="give the features of the last layer below the classifier, as the column vector",
    )
    sub.add_argument(
        "--neighbours",
        type=int,
        default=0,
        metavar="N",
        help="find the N most similar training images; with --out, also draw them on a page",
    )
    sub.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help=f"images with more pixels count as bad; this limits memory (default: {MAX_PIXELS})",
    )
    sub.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute (default: auto)"
    )
    storing(sub)
    printing(sub)
    sub = command("compare", _compare, "run several configurations and rank them in one leaderboard")
    sub.add_argument("recipes", nargs="+", metavar="RECIPE", help="names that `list` shows, or YAML files")
    sub.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="values of a key to compare, such as pretext.method=simclr,swav; "
        "if repeated, all combinations run",
    )
    sub.add_argument(
        "--arm",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        dest="arms",
        help="a configuration by its name and the keys that set it apart from the recipe, such as own "
        "pretext.method=simclr; in place of --vary, for one recipe; may be repeated",
    )
    configurable(sub)
    sub.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="runs per configuration, each with another seed (default: 1)",
    )
    sub.add_argument(
        "--draws",
        type=int,
        default=1,
        metavar="N",
        help="runs per configuration with one seed, each with another draw of labels; in place of --seeds "
        "(default: 1)",
    )
    storing(sub)
    printing(sub)
    sub = command("reproduce", _reproduce, "test claims of the papers")
    sub.add_argument("claims", nargs="*", metavar="CLAIM", help="names that `list` shows (default: all)")
    sub.add_argument(
        "--scale",
        choices=["cpu", "gpu"],
        default="cpu",
        help="cpu: minutes per run on two cores; gpu: hundreds of epochs (default: cpu)",
    )
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="runs per arm (default: 3)")
    sub.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="where to find cifar10, cifar10-test, imagenette or imagenette-test "
        "(default: torchvision's); may be repeated",
    )
    storing(sub)
    sub.add_argument(
        "--out", metavar="DIR", help="folder for the records and the page (default: claims in the store)"
    )
    sub.add_argument("--dry-run", action="store_true", help="show how many runs there are and what they cost")
    printing(sub)
    sub = command("store", None, "list, verify or clean up a store")
    parts = sub.add_subparsers(metavar="PART", required=True)

    def part(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = parts.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(command=run)
        storing(made)
        printing(made)
        return made

    part("list", _store_list, "show what a store holds, and how large it is")
    made = part("verify", _store_verify, "hash every file, and name the damaged ones")
    made.add_argument(
        "--repair",
        action="store_true",
        help="move damaged artifacts to the folder damaged, and delete damaged files of the cache; "
        "the next run makes again what it needs",
    )
    made = part("gc", _store_gc, "delete the artifacts and cached files that no run in the store needs")
    made.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    sub = command(
        "prefect-setup",
        _prefect_setup,
        "create what the configured Prefect server needs: work pool, GPU limit, automation",
    )
    sub.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="number of stages that may use the workers' GPUs at once (default: 1)",
    )
    sub.add_argument(
        "--deploy",
        action="store_true",
        help="also create the deployments; their runs start in the current folder",
    )
    return top


def _run(options: argparse.Namespace, terminal: Terminal) -> int:
    over = parse_settings(options.settings) | ({"store": options.store} if options.store else {})
    if options.minutes is not None:
        nest(over, "plan.minutes", options.minutes)
    if options.quick:
        over, sets = quick(over)
        terminal.note(sets)
    if options.dry_run:
        from flows.estimate import estimate

        seconds = None if options.dry_run == "full" else 5.0
        found = estimate(override(recipe(options.recipe), over), seconds=seconds)
        print(json.dumps(found.as_json()) if options.json else found.as_text())
        return 0
    parameters = chain_parameters(options.recipe, over)
    return _flow("flows.knowledge_transfer", "knowledge_transfer", parameters, options.json, terminal)


def _export(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.export import export_run, said

    result = export_run(
        options.run,
        options.to,
        None if options.format is None else [name.strip() for name in options.format.split(",")],
        parse_settings(options.settings),
        store=options.store,
        listen=partial(terminal.event, "export"),
    )
    print(json.dumps({"status": "done", **result}) if options.json else "\n".join(said(result)))
    return 0


def _evaluate(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.model_folder import ANSWERED, check_protocols, model_folder
    from models.export.given import is_exported

    config = override(Config(), {"store": options.store} if options.store else {})
    place = model_folder(options.model, Store(config.store))
    usual = ([ANSWERED] if is_exported(place) else list(USUAL)) if options.data else []
    check_protocols(place, options.protocols or usual)
    if not (options.protocols or usual):
        raise ConfigError(
            f"evaluate: give --data SOURCE, or --voc SOURCE and --protocols of {', '.join(on_photographs())}"
        )
    parameters = {
        "model": str(place),
        "data": options.data,
        "test": options.test,
        "voc": options.voc,
        "protocols": options.protocols or usual,
        "store": str(Path(config.store).expanduser().absolute()),
    }
    return _flow("flows.evaluate", "evaluate", parameters, options.json, terminal)


def _predict(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.answer import FEW, answer, question, table

    if options.embeddings and not (options.out or options.json):
        raise ConfigError("--embeddings: a terminal can't show vectors; give --out FILE.parquet, or --json")
    asked = question(
        options.model,
        options.images,
        store=options.store,
        top=options.top,
        every=options.all,
        embeddings=options.embeddings,
        neighbours=options.neighbours,
        out=options.out,
        keep=math.inf if options.json and not options.out else FEW,
        device=options.device,
        max_pixels=options.max_pixels,
    )
    with terminal.counting("predict") as progress:
        result = answer(asked, terminal.note, progress)
    if options.json:
        if options.out:
            del result["predictions"]
        print(json.dumps({"status": "done", **result}))
    else:
        print("\n".join(table(result)))
    return 0


def _compare(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.variants import configurations, named_arms, pairs, refuse_both, standings

    vary = {key: text.split(",") for key, text in pairs("--vary", options.vary).items()}
    settings, arms = pairs("--set", options.settings), named_arms(options.arms)
    named = [name if name in NAMES else str(Path(name).absolute()) for name in options.recipes]
    configurations(named, vary, settings, arms)  # refuse mistakes before Prefect is imported
    refuse_both(options.seeds, options.draws)
    store = str(Path(options.store or Config().store).expanduser().absolute())
    Store(store)
    parameters = {
        "recipes": named,
        "vary": vary,
        "settings": settings,
        "arms": arms,
        "seeds": options.seeds,
        "draws": options.draws,
        "store": store,
    }
    return _flow("flows.compare", "compare", parameters, options.json, terminal, standings)


def _reproduce(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows import claims

    sources = claims.sources(options.images)
    chosen = claims.named(options.claims)
    if options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: each arm needs at least one run")
    store = Path(options.store or Config().store).expanduser().absolute()
    if options.dry_run:
        from flows.estimate import estimate_claims

        found = estimate_claims(chosen, options.scale, options.seeds, sources, str(store))
        print(json.dumps(found) if options.json else claims.costs(found))
        return 0
    parameters = {
        "claims": [claim.name for claim in chosen],
        "scale": options.scale,
        "seeds": options.seeds,
        "sources": sources,
        "store": str(store),
        "out": options.out,
    }
    return _flow("flows.reproduce", "reproduce", parameters, options.json, terminal, claims.summary)


def _prefect_setup(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.server import embedded

    if options.gpus < 0:
        raise ConfigError(f"--gpus {options.gpus}: give 0 or more")
    if not embedded.configure():
        raise ConfigError(
            "prefect-setup: no Prefect server is configured; start one with `prefect server start` "
            "and set PREFECT_API_URL, such as http://127.0.0.1:4200/api"
        )
    setup = importlib.import_module("flows.server.prefect_setup")
    print("\n".join(setup.prefect_setup(options.gpus)))
    worker = "prefect worker start --pool knowledge-transfer"
    if options.deploy:
        print(setup.deploy())
        print(f"next: {worker}")
    else:
        print(f"next: {PROGRAM} prefect-setup --deploy, in the folder where runs should start; then {worker}")
    return 0


def _opened(options: argparse.Namespace) -> Store:
    """The store to look after. Unlike other commands, these create none."""
    root = Path(options.store or Config().store).expanduser().absolute()
    if not there(root):
        raise ConfigError(f"there is no store in {str(root)!r}; give its folder with --store")
    return Store(root, make=False)


def _store_list(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.housekeeping import contents

    found = contents(_opened(options))
    print(json.dumps(found.as_json()) if options.json else found.as_text())
    return 0


def _store_verify(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.housekeeping import verify

    with terminal.counting("verify, in MB") as progress:
        found = verify(_opened(options), repair=options.repair, progress=progress)
    print(json.dumps(found.as_json()) if options.json else found.as_text())
    return 1 if found.damaged and not found.repaired else 0


def _store_gc(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.housekeeping import collect

    found = collect(_opened(options), dry_run=options.dry_run)
    print(json.dumps(found.as_json()) if options.json else found.as_text())
    return 0


def _flow(
    module: str,
    name: str,
    parameters: dict[str, Any],
    as_json: bool,
    terminal: Terminal,
    said: Callable[[dict[str, Any]], list[str]] = summary,
) -> int:
    """Run a flow on the configured server, or on an embedded one, and print its result."""
    lost = partial(_give_up, terminal=terminal, as_json=as_json)
    flow = load_flow(module, name, terminal.note, lost)
    WATCHERS.append(terminal)
    result = flow(**mask_all(parameters))
    print(json.dumps({"status": "done", **result}) if as_json else "\n".join(said(result)))
    return 0


def _list(options: argparse.Namespace, terminal: Terminal) -> int:
    from data.sources import known_sources
    from flows.claims import CLAIMS
    from models.configs.shared import BACKBONES

    rows: dict[str, dict[str, str]] = {
        "recipes": {
            name: _first(importlib.import_module(f"flows.recipes.{name.replace('-', '_')}")) for name in NAMES
        },
        "pretext methods": {name: _first(model) for name, model in methods("pretext").items()},
        "transfer methods": {name: _first(model) for name, model in methods("transfer").items()},
        "backbones": {
            **BACKBONES,
            "timm:NAME": "any network of the package timm (optional: knowledge-transfer[timm])",
        },
        "data sources": {known.form: known.sentence for known in known_sources().values()},
        "evaluations": protocols(),
        "claims": {name: f"{claim.paper}: {claim.statement}" for name, claim in CLAIMS.items()},
    }
    for title, entries in rows.items():
        print(title)
        width = max(20, *(len(name) + 1 for name in entries))
        for name, text in entries.items():
            print(f"  {name:<{width}}{text}".rstrip())
    return 0


def _first(described: object) -> str:
    return (described.__doc__ or "").partition("\n")[0]


def _show(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.as_yaml import changed, explained, plain

    over = parse_settings(options.settings)
    config = override(recipe(options.recipe), over)
    if options.changed:
        own = options.recipe in NAMES and not over  # a recipe itself is compared with the defaults
        named = config.recipe if config.recipe in NAMES and not own else None
        print(changed(config, named, comments=not options.plain), end="")
    else:
        print(plain(config) if options.plain else explained(config), end="")
    return 0


def _report(options: argparse.Namespace, terminal: Terminal) -> int:
    from flows.rewrite import rewrite_report

    print(rewrite_report(options.run, options.store))
    return 0


if __name__ == "__main__":
    sys.exit(main())

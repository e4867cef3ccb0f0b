"""The command line: argv -> Hydra -> typed job -> verb.

    python -m tunekit [VERB | FILE.yaml] [key=value ...] [Hydra's own flags]

The first word is shorthand for a Hydra flag and is expanded before Hydra sees argv: `chat` -> `--config-name chat`,
`recipes/zephyr-7b/2-dpo.yaml` -> `--config-dir ... --config-name 2-dpo`. Each primary config says `verb:`; its job's
dataclass and module stand in `config.VERBS`. So there is no second parser and no flag of our own.

Nothing here imports torch, transformers or trl: help and typos are answered in well under a second.
"""

import logging
import os
import re
import shlex
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from tunekit import trl_args
from tunekit.config import GROUPS, VERBS, typed
from tunekit.errors import ConfigError, TunekitError, did_you_mean
from tunekit.overrides import check_overrides, choices, group_type
from tunekit.paths import CONF, RECIPES

# Hydra's own output folder and log files are off: a run is a folder we name. Set here, the only door, so that
# nobody's recipe has to repeat it.
QUIET_HYDRA = (
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.dir=.",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


def entry() -> None:
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command; returns its exit code (errors.py lists them)."""
    try:
        verb, hydra_argv = expand(list(argv))
        if "--version" in argv:
            print(import_module("tunekit").__version__)
            return 0
        if {"-h", "--help"} & set(argv):
            print(help_text(verb))
            return 0
        overrides, problems = check_overrides(verb, hydra_argv)
        return _run_hydra(verb, overrides, problems, shlex.join(["python", "-m", "tunekit", *argv]))
    except TunekitError as error:
        return _report(error)


def expand(argv: list[str]) -> tuple[str, list[str]]:
    """The verb, and argv as Hydra wants it. Raises ConfigError for a first word that is neither verb nor file."""
    word = argv[0] if argv and not argv[0].startswith(("-", "~")) and "=" not in argv[0] else None
    if word is None:
        return "train", ["--config-name", "train", *argv]
    if word in VERBS:
        return word, ["--config-name", word, *argv[1:]]
    if word.endswith((".yaml", ".yml")):
        file = _find(Path(word).expanduser())
        return _verb_of(file), ["--config-dir", str(file.parent), "--config-name", file.stem, *argv[1:]]
    raise ConfigError(f"{word}: neither a verb, a .yaml file nor key=value{did_you_mean(word, VERBS)}")


def _find(path: Path) -> Path:
    """A recipe's file: in the working directory, else among the shipped ones."""
    for candidate in (path, RECIPES.parent / path, RECIPES / path):
        if candidate.is_file():
            return candidate.resolve()
    known = [str(Path("recipes") / f.relative_to(RECIPES)) for f in RECIPES.glob("*/*.yaml")]
    raise ConfigError(f"{path}: no such file here or among the shipped recipes{did_you_mean(str(path), known)}")


def _verb_of(file: Path) -> str:
    """A recipe's verb is the primary config it starts from: the first of its `defaults:` that names one."""
    for name in re.findall(r"^\s*-\s*(\w+)\s*$", file.read_text(encoding="utf-8"), re.MULTILINE):
        if name in VERBS:
            return str(name)
    raise ConfigError(f"{file}: not a recipe; its defaults list names no verb ({', '.join(VERBS)})")


def _run_hydra(verb: str, argv: list[str], problems: list[str], command: str) -> int:
    """Compose and run. Hydra's own complaints (grammar, an unknown flag) are bad input: exit code 2."""
    from hydra import main as hydra_main  # here, not on top: help needs no Hydra, and it takes 0.3 s

    if any(word.split("=")[0] in ("--cfg", "-c") for word in argv):
        if problems:
            raise ConfigError("\n".join(problems))
        argv = ["--resolve", *argv] if "--resolve" not in argv else argv
    outcome: list[int] = []

    def task(config: Any) -> None:
        outcome.append(_guarded(lambda: _run_verb(config, problems, command)))
        if outcome[-1]:
            raise SystemExit(outcome[-1])

    with _argv(["tunekit", *argv, *QUIET_HYDRA]):
        try:
            hydra_main(version_base="1.3", config_path=str(CONF), config_name=verb)(task)()
        except SystemExit as end:
            if outcome and outcome[-1]:
                return outcome[-1]
            if end.code and problems:
                return _report(ConfigError("\n".join(problems)))
            return 2 if end.code else 0
    return 0


def _run_verb(config: Any, problems: list[str], command: str) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError("\n".join([*problems, f"{error.full_key}: missing; give {error.full_key}="])) from error
    except OmegaConfBaseException as error:
        raise ConfigError("\n".join([*problems, str(error).splitlines()[0]])) from error
    assert isinstance(plain, dict)
    verb = VERBS[str(plain.get("verb"))]
    try:
        job = typed(verb.job, plain)
    except ConfigError as error:
        problems = [*problems, *str(error).splitlines()]
    method = plain.get("method")
    if isinstance(method, dict) and isinstance(plain.get("args"), dict):
        problems = [*problems, *trl_args.problems(str(method.get("trl")), plain["args"])]
    if problems:
        raise ConfigError("\n".join(problems))
    if HydraConfig.get().mode is not None and HydraConfig.get().mode.name == "MULTIRUN":
        job.out = _sweep_folder(job, HydraConfig.get().overrides.task, _varied(shlex.split(command)))
    _quiet()
    if "HF_HUB_OFFLINE" not in os.environ and _names_a_hub(job) and not _hub_has_an_address():
        os.environ["HF_HUB_OFFLINE"] = "1"  # what is cached still loads, and what is not fails at once, not after 30 s
    if sys.stderr.isatty():
        print("loading torch, transformers and trl ...", file=sys.stderr)  # seconds in which nothing else is said
    import_module(verb.module).run(job, command)


def _quiet() -> None:
    """Before the heavy libraries are imported: no telemetry, and no warnings that are not for the user."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL sends some when a trainer is made
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|torch)\.")
    # "Failed to load CPU gemm_4bit_forward": an optional kernel; NF4 on a CPU works without it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _names_a_hub(job: Any) -> bool:
    paths = [part.path for part in (getattr(job, "model", None), getattr(job, "dataset", None)) if part is not None]
    return any(
        path and "/" in path and not path.endswith((".json", ".jsonl")) and not Path(path).expanduser().exists()
        for path in paths
    )


def _hub_has_an_address() -> bool:
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


def _sweep_folder(job: Any, overrides: Iterable[str], varied: Iterable[str]) -> str:
    """`-m`: each job in a folder named by what the sweep varies, under the one the user named."""
    keys = set(varied)
    named = [o.lstrip("+") for o in overrides if o.lstrip("+").partition("=")[0] in keys]
    return str(Path(job.out or f"runs/{getattr(job, 'name', None) or 'sweep'}") / ",".join(named).replace("/", "_"))


def _varied(argv: Iterable[str]) -> list[str]:
    """The keys a sweep varies: those typed with several values, a range, a choice or a glob."""
    several = re.compile(r",|(choice|range|interval|glob)\(")
    return [w.lstrip("+").partition("=")[0] for w in argv if "=" in w and several.search(w.partition("=")[2])]


def _guarded(run: Callable[[], None]) -> int:
    try:
        run()
    except TunekitError as error:
        return _report(error)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from its last checkpoint, or starts again", file=sys.stderr)
        return 75
    except BrokenPipeError:
        return 0
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        where = _last_frame(error)
        print(f"tunekit: a bug, please report it: {type(error).__name__}: {error}\n  at {where}\n"
              "  HYDRA_FULL_ERROR=1 shows the whole traceback", file=sys.stderr)  # fmt: skip
        return 1
    return 0


def _last_frame(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"


def _report(error: TunekitError) -> int:
    if rank() == 0:
        print(f"tunekit: {error}", file=sys.stderr)
    return error.exit_code


def rank() -> int:
    """This process's number under `accelerate launch` or `torchrun`; 0 alone."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def _argv(argv: list[str]) -> Any:
    """Hydra reads sys.argv and nothing else."""
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before


def help_text(verb: str) -> str:
    """Made from the tables and the folders, so it cannot fall behind them."""
    job = VERBS[verb].job
    hints = get_type_hints(job)
    lines = [
        "python -m tunekit [VERB | FILE.yaml] [key=value ...] [Hydra's own flags: -m, --cfg job, --config-dir, ...]",
        "",
        *(f"  {name:<10} {v.summary}" for name, v in VERBS.items()),
        "  FILE.yaml  a stage of a recipe: "
        + ", ".join(sorted(str(f.relative_to(RECIPES)) for f in RECIPES.glob("*/*.yaml"))),
        "",
        f"{verb}: {(job.__doc__ or '').strip()}",
    ]
    for group in (g for g in GROUPS if g in hints):
        lines.append(f"  {group}=".ljust(14) + " ".join(choices(group)))
    plain = [key for key in hints if key not in GROUPS and key not in ("verb", "args")]
    lines.append("  keys:".ljust(14) + " ".join(f"{key}=" for key in plain))
    for group in (g for g in GROUPS if g in hints and g != "method"):
        keys = get_type_hints(group_type(verb, group))
        lines.append(f"  {group}.".ljust(14) + " ".join(key for key in keys if key != "name"))
    if "args" in hints:
        lines.append("  args.".ljust(14) + "any field of the method's TRL config, verbatim: args.learning_rate=1e-5")
    lines += ["", "Exit codes: 0 done, 2 bad input, 4 diverged, 5 run folder of another run, 75 stopped and resumable."]
    return "\n".join(lines)

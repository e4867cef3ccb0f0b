"""What can go wrong, for the person who typed the command: what, where, what to do.

    TunekitError                exit code
    ├── ConfigError             2   a key, value or combination in the command or a YAML file
    ├── DataError               2   a data file or one of its rows
    ├── ModelError              2   weights, tokenizer, template or adapter
    ├── ArtifactError           2   a run folder that cannot be read
    ├── HardwareError           2   an option this machine cannot do
    ├── RunExists               5   the run folder belongs to another run
    ├── Diverged                4   the loss is no longer a number
    └── Stopped                75   a signal stopped the run; the same command goes on (EX_TEMPFAIL of sysexits.h)

Anything else that escapes is a bug in tunekit: exit code 1.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TunekitError(Exception):
    exit_code = 2


class ConfigError(TunekitError):
    pass


class DataError(TunekitError):
    pass


class ModelError(TunekitError):
    pass


class ArtifactError(TunekitError):
    pass


class HardwareError(TunekitError):
    pass


class RunExists(TunekitError):
    exit_code = 5


class Diverged(TunekitError):
    exit_code = 4


class Stopped(TunekitError):
    exit_code = 75


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean dpo?`, or the whole list where nothing is near and the list is short, or nothing."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f" (known: {', '.join(names)})" if len(names) <= 12 else ""

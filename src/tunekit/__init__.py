"""tunekit: from a base model to an aligned adapter with one command.

The command line is the public door (`python -m tunekit --help`). From Python, `main` is the same door:

    from tunekit import main
    exit_code = main(["method=dpo", "model=tiny", "dataset=quickstart-preferences"])
"""

from tunekit.cli import main
from tunekit.errors import TunekitError

__version__ = "0.1.0"
__all__ = ["TunekitError", "__version__", "main"]

"""What is seen and kept of a running training: a bar, a line of metrics, metrics.jsonl; and how it is stopped."""

import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from tunekit.errors import Diverged

# Trainer's names -> ours on the line, in order; the rest stays in metrics.jsonl.
SHOWN = {
    "loss": "loss {:.4f}",
    "eval_loss": "held-out loss {:.4f}",
    "rewards/margins": "margin {:+.3f}",
    "rewards/accuracies": "accuracy {:.2f}",
    "eval_rewards/margins": "margin {:+.3f}",
    "eval_rewards/accuracies": "accuracy {:.3f}",
    "learning_rate": "lr {:.1e}",
    "grad_norm": "grad {:.2f}",
}


def line(logs: dict[str, Any]) -> str:
    """One line of the metrics a person follows."""
    return "  ".join(text.format(float(logs[name])) for name, text in SHOWN.items() if name in logs)


class Progress(TrainerCallback):
    """The bar (in a terminal), the line (always) and the file; only the first process writes."""

    def __init__(self, metrics: Path) -> None:
        self.metrics = metrics
        self.bar: Any = None
        self.began, self.first = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.began, self.first = time.monotonic(), state.global_step
            self._forget_after(state.global_step)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=None, leave=False)

    def _forget_after(self, step: int) -> None:
        """A resumed run repeats the steps after its checkpoint; they are not to stand there twice."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            self.metrics.write_text("".join(x for x in lines if json.loads(x)["step"] <= step), encoding="utf-8")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **{k: _plain(v) for k, v in logs.items()}}) + "\n")
        if "train_runtime" not in logs:
            seconds = (time.monotonic() - self.began) / max(1, state.global_step - self.first)
            pace = f"  {seconds:.1f} s/step" if "loss" in logs else ""
            tqdm.write(f"  step {state.global_step}/{state.max_steps}  {line(logs)}{pace}", file=sys.stdout)
            sys.stdout.flush()
        loss = logs.get("loss", 0.0)
        if not math.isfinite(float(loss)):
            raise Diverged(
                f"step {state.global_step}: the loss is {loss}; lower args.learning_rate, or look at the rows of this step"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else float(value)


class StopAtStep(TrainerCallback):
    """Ctrl-C and SIGTERM: finish the step, save, end. A second signal ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopAtStep":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        tqdm.write("  stopping after this step; once more to stop at once", file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.signal is not None:
            control.should_save = control.should_training_stop = True

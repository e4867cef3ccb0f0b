"""The TRL private parts we lean on, by name: a new TRL that moves one fails here first."""

import inspect
from importlib.metadata import version

import pytest
import transformers
from trl import DPOTrainer, SFTTrainer
from trl.trainer import base_trainer, utils

from tunekit.methods import METHODS
from tunekit.methods.house import House


@pytest.mark.parametrize("trainer", [SFTTrainer, DPOTrainer])
@pytest.mark.parametrize("name", ["_send_telemetry", "create_model_card", "_save", "_prepare_dataset"])
def test_what_we_override_is_still_there(trainer: type, name: str) -> None:
    assert callable(getattr(trainer, name))


def test_telemetry_is_sent_from_the_one_place_we_override() -> None:
    assert inspect.getsource(base_trainer).count("send_telemetry(") == 3  # the call, the definition and the library's
    assert House._send_telemetry is not base_trainer._BaseTrainer._send_telemetry


def test_dpos_reference_is_still_chosen_by_the_name_ref() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    assert 'adapter_name="ref" if "ref" in' in source


def test_the_fused_heads_output_has_our_fields() -> None:
    fields = set(utils.FusedCausalLMOutput.__dataclass_fields__)
    assert {"log_probs", "entropy", "mean_logits", "is_top1", "label_mask"} <= fields


def test_trainer_saves_its_pickle_in_save_and_nowhere_else() -> None:
    source = inspect.getsource(transformers.Trainer)
    assert source.count("TRAINING_ARGS_NAME") == 2  # _save, and _save_tpu


def test_the_pin_is_the_tested_version() -> None:
    assert version("trl").startswith("1.16.")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_has_what_the_shared_trainer_calls(name: str) -> None:
    method = METHODS[name]
    assert method.needs in ("instruct", "preference")
    assert isinstance(method.needs_reference, bool)
    for function in ("encode", "settings", "trainer", "warnings"):
        assert callable(getattr(method, function))
    assert issubclass(method.Trainer, House)

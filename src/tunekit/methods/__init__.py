"""What is optimised: one module a method, found in one table.

A method module has `needs` (the kind of rows), `needs_reference`, `encode` (rows -> tokens),
`settings` (args -> TRL's config), `trainer` and `warnings`.
"""

from types import ModuleType

from tunekit.methods import dpo, sft

METHODS: dict[str, ModuleType] = {"sft": sft, "dpo": dpo}

# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run that continues knows again, although its path is free."""

import dataclasses
import types

import pytest
import small_lit

from vit_jax.errors import UserError
from vit_jax.training.plan import TextPlan, make_plan
from vit_jax.training.task import make_task


def test_a_run_knows_its_vocabulary_by_its_content(tmp_path, caplog):
  """The path is free, and the ids of another file of as many words would mean other words."""
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "0", "1"]
  files = {"first": words, "moved": words, "other": [*words[:-2], "1", "0"]}
  plan, tasks = make_plan(small_lit.config()), {}
  for name, lines in files.items():
    (tmp_path / name).write_text("\n".join(lines))
    text = TextPlan(tokenizer="bert", max_len=8, vocabulary=str(tmp_path / name))
    plan = dataclasses.replace(plan, text=text)
    earlier = types.SimpleNamespace(vocabulary=tasks["first"].vocabulary) if tasks else None
    if name == "other":
      with pytest.raises(
        UserError, match=r"/other' is not the vocabulary that this run .* set it to"
      ):
        make_task(plan, ("0", "1"), earlier)
      older = types.SimpleNamespace(vocabulary=None)
      assert make_task(plan, ("0", "1"), older).vocabulary != tasks["first"].vocabulary
      assert f"it goes on with what is at {tmp_path / name} now" in caplog.text
    else:
      tasks[name] = make_task(plan, ("0", "1"), earlier)
  assert tasks["first"].vocabulary == tasks["moved"].vocabulary is not None
  bytes_alone = make_task(make_plan(small_lit.config()), tuple("0123456789"))
  assert bytes_alone.vocabulary is None

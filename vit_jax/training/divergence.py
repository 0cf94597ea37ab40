# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What to do when a loss, its gradient or an update is not finite: `config.nan_policy`."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Literal

import jax

from vit_jax.errors import Diverged

LAG = 8  # Steps that may be on their way to the device before the result of one is looked at.
MAX_SKIPPED = 10  # In a row; then the parameters themselves are no good.
MAX_ROLLBACKS = 3  # In a row without a new checkpoint between them.


class Guard:
  """Looks at each step's `finite` some steps later, and decides.

  Always `LAG` steps later, whether it has arrived sooner or not: several processes have to decide
  alike at the same step, or one would go back while the others wait for it.

  Attributes:
    bad_step: the step that training cannot go on from, once known; None while it can.
    rollbacks: how often the run went back since its last checkpoint.
  """

  def __init__(self, policy: Literal["stop", "skip", "rollback"], say: Callable[[str], None]):
    self._policy, self._say = policy, say
    self._pending: collections.deque[tuple[int, jax.Array]] = collections.deque()
    self._skipped: list[int] = []  # In a row.
    self.bad_step: int | None = None
    self.rollbacks = 0

  def update(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Notes that `step` was dispatched; looks at the one that was `LAG` steps before."""
    self._pending.append((step, metrics["finite"]))
    if len(self._pending) > LAG:
      self._look(*self._pending.popleft())

  def flush(self) -> None:
    """Waits for the last step."""
    while self._pending:
      self._look(*self._pending.popleft())

  def _look(self, step: int, finite: jax.Array) -> None:
    if self.bad_step is not None:
      return
    if finite:
      self._skipped.clear()
    elif self._policy != "skip":
      self.bad_step = step
    else:
      self._skipped.append(step)
      self._say(f"step {step}: the loss, gradient or update is not finite; left out")
      if len(self._skipped) == MAX_SKIPPED:
        self.bad_step = self._skipped[0]

  def goes_back(self, last_good: int | None) -> bool:
    """After a bad step: whether to go back to the last checkpoint and on with other data.

    Args:
      last_good: the step of that checkpoint; None if there is none.

    Raises:
      Diverged: the policy is another, there is nothing to go back to, or that has not helped.
    """
    if self._policy == "rollback" and last_good is not None and self.rollbacks < MAX_ROLLBACKS:
      self.rollbacks += 1
      self._say(
        f"step {self.bad_step}: the loss, gradient or update is not finite; back to step "
        f"{last_good}, and on with other data ({self.rollbacks} of {MAX_ROLLBACKS})"
      )
      self.bad_step = None
      self._pending.clear()
      return True
    stands = (
      "no checkpoint was saved yet"
      if last_good is None
      else f"the checkpoint of step {last_good} is the last good one"
    )
    raise Diverged(
      f"The loss, its gradient or the update became NaN or infinite at step {self.bad_step}; "
      f"{stands}. Lower base_lr, lengthen warmup_steps or set grad_norm_clip, and use another "
      "workdir."
    )

# SPDX-License-Identifier: Apache-2.0
"""What plans of integrated gradients share whose path is that of embeddings."""

from __future__ import annotations

from abc import abstractmethod

from pyrel.engine.arrays import Float32s
from pyrel.engine.plans.after_first import AfterFirst
from pyrel.engine.plans.averaged_gradients import Floats
from pyrel.engine.plans.base import EMBED, Runner
from pyrel.engine.plans.copies import Float64s
from pyrel.engine.results import Samples


class LookedUp(AfterFirst):
    """A program looks up token ids; another takes copies of ids and embeddings."""

    forward_only = (EMBED,)

    @abstractmethod
    def folded(self, total: Floats) -> Floats:
        """Return what belongs to the elements of a sample of what belongs to those of a copy."""

    def gradient(self, runner: Runner, found: Floats, here: Samples) -> Floats:
        """Add up gradients over the dimensions of embeddings."""
        return self.folded(found)

    def shared_out(
        self, runner: Runner, total: Float64s, here: Samples, values: Float32s
    ) -> Floats:
        """Add up relevance over the dimensions of embeddings."""
        return self.folded(super().shared_out(runner, total, here, values))

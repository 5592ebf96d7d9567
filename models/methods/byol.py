"""BYOL (Grill et al., arXiv 2006.07733) and Momentum² Teacher (Li et al., arXiv 2101.07525).

x and x' are two views of B images. The online network has the weights theta and computes y = f(x), z = g(y)
and p = q(z). The target has the weights xi and computes z' = g_xi(f_xi(x')), without gradient and without a
predictor. The loss (BYOL eq. 2) is 2 - 2 cos(p, z') from x to x' plus the same from x' to x, so it is between
0 and 8. After each step, xi <- m xi + (1 - m) theta, where m rises to 1 along half a cosine. Each view passes
through each network on its own, because two views in one batch would share their batch statistics.

Momentum² Teacher puts MomentumBN into the target: mu = alpha mu_x + (1 - alpha) mu_run. alpha falls from 1 to
0 along half a cosine, and mu_run is updated once per step, from both views. Departures: docs/methods/byol.md
and docs/methods/momentum2.md.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse, heads
from models.augment import two_views
from models.configs.byol import BYOL
from models.ema import advance, teach, teacher_of
from models.losses.regression import normalised_regression
from models.method import Batch, Loss, Method, Progress
from models.network import Network, build_network, seeded
from models.norms import replace_norms
from models.optim import make_optimizer


class BYOLMethod(Method):
    """Online network f, projector g, predictor q and the target. The published network is f.

    Args:
        config: the method's parameters.
        image_size: side of the images in px.
        seed: seed of the weights.
    """

    def __init__(self, config: BYOL, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        f = build_network(config.backbone, image_size, seed=seed, width=config.width)
        with seeded(seed, "projector"):
            g = heads.mlp(f.output_dim, config.hidden, config.projection)
        with seeded(seed, "predictor"):
            self.predictor = heads.mlp(config.projection, config.hidden, config.projection)
        self.online = nn.Sequential(f, g)
        self.target = teacher_of(self.online, config)
        for student in (self.online, self.predictor):
            replace_norms(student, config.student_norm, config.norm_groups)
        self.network = f

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw two views per image, (2B, 3, S, S): all first views, then all second views.

        The second views have their own probabilities of blur and solarisation.
        """
        batch.views = two_views(batch.images, draws, self.config, self.network.image_size, self.config.second)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Sum the loss of both directions; log the collapse signs of the projections z."""
        views: tuple[Tensor, Tensor] = batch.views.chunk(2)
        z = [self.online(x) for x in views]
        p = [self.predictor(z_x) for z_x in z]
        t = [teach(self.target, x, progress) for x in views]
        total = normalised_regression(p[0], t[1]) + normalised_regression(p[1], t[0])
        return Loss(total, dict(collapse.signs(z[0])))

    def after_update(self, progress: Progress) -> None:
        """Move the target towards the online network."""
        advance(self.target, self.online, self.config, progress)

    def passes(self) -> list[tuple[int, float]]:
        """Two views per image, through both networks."""
        return [(self.config.side(self.network.image_size), 2 + 2 / 3)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for f, g and q."""
        return {"main": make_optimizer(self.config, self.parameters())}


class Momentum2Method(BYOLMethod):
    """BYOL whose target has MomentumBN. The published network is the target's f."""

    def __init__(self, config: BYOL, image_size: int, seed: int) -> None:
        super().__init__(config, image_size, seed)
        self.network = cast(Network, self.target[0])

"""Knowledge transfer (Noroozi et al. 2018, section 3): a new network learns to classify images into clusters.

Only cluster membership is passed on, so the student may have any architecture. Its classifier and its fully
connected layers are dropped after training (`Network.with_classifier`).
"""

from __future__ import annotations

from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models.augment import random_view
from models.configs.pseudo_labels import PseudoLabels
from models.method import Batch, Loss, Method, Progress
from models.network import Network
from models.optim import make_optimizer


class PseudoLabelsMethod(Method):
    """Cross-entropy with the clusters.

    Args:
        config: the method's parameters.
        network: the student, with a classifier of k classes.
    """

    def __init__(self, config: PseudoLabels, network: Network) -> None:
        super().__init__()
        self.config = config
        self.network = network

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image: (B, 3, S, S)."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy with the cluster, `batch.target` of shape (B,) and dtype int64. Logs `accuracy`."""
        assert batch.target is not None
        logits = self.network(batch.views).float()
        accuracy = (logits.argmax(dim=1) == batch.target).float().mean()
        return Loss(F.cross_entropy(logits, batch.target), {"accuracy": accuracy})

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the whole network; the classifier is its head group."""
        named = list(self.network.named_parameters())
        body = [p for name, p in named if not name.startswith("classifier.")]
        head = [p for name, p in named if name.startswith("classifier.")]
        return {"main": make_optimizer(self.config, body, head)}

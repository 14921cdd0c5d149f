"""What features are worth for a classification that they were not trained for.

Both judges see features of training images as evaluation sees them, with their labels, and nothing
of the images that are tested.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024  # rows whose similarities are held at a time
MEMORY = 10  # steps that L-BFGS remembers


def knn_scores(
    z: Tensor, bank: Tensor, labels: Tensor, num_classes: int, *, k: int, temperature: float
) -> Tensor:
    """Let the most similar training images vote, each weighed by its similarity.

    Wu et al., CVPR 2018, arXiv:1805.01978: the weight of a neighbour is exp(cosine / temperature).

    Args:
        z: (B, D) features to classify.
        bank: (N, D) unit features of training images.
        labels: (N,) their class indices.
        num_classes: Number of classes K.
        k: Neighbours that vote; all where there are fewer.
        temperature: Divisor of the cosines, > 0.

    Returns:
        (B, K) logarithm of each class's share of the votes; no less than 1e-12.

    Example:
        >>> bank, labels = torch.eye(2), torch.tensor([2, 0])
        >>> knn_scores(torch.tensor([[3.0, 0.0]]), bank, labels, 3, k=1, temperature=0.1).argmax()
        tensor(2)
    """
    found = []
    for part in F.normalize(z.float(), dim=1).split(CHUNK):
        near = (part @ bank.t()).topk(min(k, len(bank)), dim=1)
        votes = (near.values / temperature).softmax(dim=1)  # of the sum, which may overflow
        shares = votes.new_zeros(len(part), num_classes)
        found.append(shares.scatter_add_(1, labels[near.indices], votes).clamp(min=1e-12).log())
    return torch.cat(found)


def linear_probe(
    features: Tensor, labels: Tensor, num_classes: int, *, decay: float, steps: int = 200
) -> tuple[Tensor, Tensor]:
    """Fit a linear classifier to features that stay as they are.

    Multinomial logistic regression on standardised features by L-BFGS from zero, in float64: the
    minimum of a convex function, so that nothing is drawn and no learning rate chosen. The
    standardisation becomes part of the weights.

    Args:
        features: (N, D) features.
        labels: (N,) class indices.
        num_classes: Number of classes K.
        decay: Weight of half the squared norm of the weights, beside the mean cross-entropy.
        steps: Steps of L-BFGS at most.

    Returns:
        Weight (K, D) and bias (K,) for the features as they came, in their type.

    Example:
        >>> features = torch.tensor([[1.0], [2.0], [5.0], [6.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> weight, bias = linear_probe(features, labels, 2, decay=1e-3)
        >>> (features @ weight.t() + bias).argmax(dim=1)
        tensor([0, 0, 1, 1])
    """
    wide = features.detach().double()
    mean, spread = wide.mean(dim=0), wide.std(dim=0, correction=0)
    spread = torch.where(spread > 1e-6 * mean.abs().clamp(min=1), spread, 1.0)
    ready = (wide - mean) / spread
    weight = torch.zeros(num_classes, wide.shape[1] + 1, dtype=wide.dtype, device=wide.device)
    weight.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=steps,
        history_size=MEMORY,
        tolerance_grad=1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = ready @ weight[:, :-1].t() + weight[:, -1]
        loss = F.cross_entropy(logits, labels) + decay / 2 * weight[:, :-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    found = weight.detach()
    slope = found[:, :-1] / spread
    bias = found[:, -1] - slope @ mean
    return slope.to(features.dtype), bias.to(features.dtype)

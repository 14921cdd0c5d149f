"""Classification of fixed features by nearest neighbours and by a linear layer.

Both judges see features of training images as evaluation sees them, with their labels, and nothing
of the images that are tested.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ROWS = 1024  # rows whose similarities are held at a time
CHUNK_TIED_ROWS = 64  # of them, those with ties are looked at in such parts
TIE_TOLERANCE = 2**-22  # cosines of float32 that differ by less are equal
LBFGS_HISTORY = 10  # steps that L-BFGS remembers


def knn_scores(
    z: Tensor, bank: Tensor, labels: Tensor, num_classes: int, *, k: int, temperature: float
) -> Tensor:
    """Let the most similar training images vote, each weighed by its similarity.

    Wu et al., CVPR 2018, arXiv:1805.01978: the weight of a neighbour is exp(cosine / temperature).
    Where more images are as similar as the last of the neighbours, they share the votes that are
    left, so that the order of the bank decides nothing.

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
    for part in F.normalize(z.float(), dim=1).split(CHUNK_ROWS):
        cosines = part @ bank.t()
        near = cosines.topk(min(k + 1, len(bank)), dim=1)
        weights = (near.values[:, :k] / temperature).softmax(dim=1)  # their sum may overflow
        votes = weights.new_zeros(len(part), num_classes)
        votes.scatter_add_(1, labels[near.indices[:, :k]], weights)
        if len(bank) > k:
            rows = (near.values[:, k - 1] - near.values[:, k] <= TIE_TOLERANCE).nonzero()[:, 0]
            for tied in rows.split(CHUNK_TIED_ROWS):
                weights = _shared_weights(
                    cosines[tied], near.values[tied, k - 1, None], k, temperature
                )
                votes[tied] = torch.zeros_like(votes[tied]).index_add_(1, labels, weights)
        found.append(votes.clamp(min=1e-12).log())
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
        history_size=LBFGS_HISTORY,
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


def _shared_weights(cosines: Tensor, last: Tensor, k: int, temperature: float) -> Tensor:
    """Weights (B, N) of all images where those as similar as the last (B, 1) vote together."""
    nearer, tied = cosines > last + TIE_TOLERANCE, (cosines - last).abs() <= TIE_TOLERANCE
    left = (k - nearer.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True)
    votes = torch.where(tied, left, nearer.to(left))
    weights = votes * ((cosines - cosines.amax(dim=1, keepdim=True)) / temperature).exp()
    return weights / weights.sum(dim=1, keepdim=True)

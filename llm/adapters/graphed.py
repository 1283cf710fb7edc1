"""The forward and backward pass of a training step as one CUDA graph.

A step of a small model is thousands of kernels of a few microseconds each, and to launch them one by one takes the
processor several times as long as they run. A graph is launched as a whole, but has fixed shapes and addresses: all of
an expert's batches are packed into rows as long as the longest of them. What fills a row up is a text of its own, which
no other attends to and no loss looks at."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from lora_reuse.llm.adapters.fused import surprise
from lora_reuse.llm.adapters.packing import Pack, Tokens, is_packing, pack, read


class Graph:
    """Loss and gradients of any of the `batches` that it was made with."""

    def __init__(self, model: Any, batches: Sequence[Sequence[Tokens]]):
        device = model.get_input_embeddings().weight.device
        lengths = [[len(asked) + len(answer) for asked, answer in batch] for batch in batches]
        self.longest = max(map(max, lengths))
        self.count = max(map(len, lengths)) + 1  # the last is what fills up
        tokens = max(map(sum, lengths))
        answered = max(sum(len(answer) for _, answer in batch) for batch in batches)
        row, spoken = (torch.zeros(size, dtype=torch.long, device=device) for size in (tokens, answered))
        self.pack = Pack(row, row.clone(), row.clone(), spoken, spoken.clone())
        self.weights = torch.zeros(answered, device=device)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.model = model
        self.recorded: tuple[torch.cuda.CUDAGraph, Tensor, list[Tensor | None]] | None = None
        self.fill(batches[0], torch.zeros(sum(len(answer) for _, answer in batches[0])))

    def __call__(self, batch: Sequence[Tokens], weights: Float[Tensor, " answered"]) -> float:
        """The sum of −weight · log p over the batch's answer tokens; its gradients are the weights' `.grad`."""
        self.fill(batch, weights)
        if not self.recorded:
            return self._run().item()
        graph, loss, gradients = self.recorded
        graph.replay()
        for weight, gradient in zip(self.trained, gradients, strict=True):
            weight.grad = gradient  # an optimizer's zero_grad takes it away
        return loss.item()

    def fill(self, batch: Sequence[Tokens], weights: Float[Tensor, " answered"]) -> None:
        """Writes the batch where the graph reads it."""
        packed, filler = pack(batch, self.longest), (self.count - 1) * self.longest
        for name, held in vars(self.pack).items():
            part = getattr(packed, name)
            held.copy_(pad(part, (0, len(held) - len(part)), value=filler if name == "places" else 0))
        self.weights.copy_(pad(weights, (0, len(self.weights) - len(weights))))

    def _run(self) -> Tensor:
        logits = read(self.model, self.pack, self.count, self.longest)
        loss = surprise(logits, self.pack.told, self.weights)
        loss.backward()
        return loss.detach()

    def capture(self) -> None:
        """Records a pass, which a call replays from then on. Raises RuntimeError for a model that waits for the device
        in its forward pass, and for too little memory."""
        warm = torch.cuda.Stream()
        warm.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm):  # libraries set themselves up in the first passes, which cannot be recorded
            for _ in range(2):
                self._run()
                self._forget()
        torch.cuda.current_stream().wait_stream(warm)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._run()
        self.recorded = graph, loss, [weight.grad for weight in self.trained]
        self._forget()

    def _forget(self) -> None:
        for weight in self.trained:
            weight.grad = None


def graphed(model: Any, batches: Sequence[Sequence[Tokens]]) -> Graph | None:
    """The graph of a packing model that is on one CUDA device whole; None for others, whose passes are launched kernel
    by kernel. Says so where one cannot be recorded."""
    devices = {weight.device for weight in model.parameters()}
    if not is_packing(model) or len(devices) > 1 or devices.pop().type != "cuda":
        return None
    graph = Graph(model, batches)
    try:
        graph.capture()
    except RuntimeError as error:
        graph._forget()
        print(f"a training step of this model is no CUDA graph, and is launched kernel by kernel: {error}")
        return None
    return graph

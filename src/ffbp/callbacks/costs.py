"""What a training step and an answer cost: memory and multiply-adds, counted in the first batch of a training."""

import weakref
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ffbp.algorithms import Algorithm
from ffbp.algorithms.answering import evaluating
from ffbp.data import Batch
from ffbp.lifecycle.record import off_the_clock

NAMES = ("memory/step_mib", "work/train_macs", "work/answer_macs")


class Costs(pl.Callback):
    """Count what the first batch of a training costs: nothing is run twice, and later batches are left alone.

    - memory/step_mib: the most memory that tensors made in the training step take up at once, in MiB: activities,
      errors, and the gradients of the parameters. Counting ends before the optimizer's first step, so that neither the
      parameters nor the state of the optimizer are part of it.
    - work/train_macs: multiply-adds of matrix products and convolutions in that step, for an image.
    - work/answer_macs: those of an answer to the same images, for an image.

    Of several processes, each counts its own share, and metrics.json has the first one's. What `compile=true` compiles
    cannot be counted, and its run has none of these.
    """

    def __init__(self) -> None:
        self.figures = dict.fromkeys(NAMES, 0.0)  # 0 for what is not counted yet; in the order of `NAMES`
        self._meter: Meter | None = None

    @property
    def counted(self) -> dict[str, float]:
        """The figures by name; none before the first batch."""
        return {name: figure for name, figure in self.figures.items() if figure}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if not self.counted and not any(module._compiled_call_impl for module in pl_module.modules()):
            self._meter = Meter()
            self._meter.__enter__()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._stop()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self._meter is not None:
            self._stop()
            step, self._meter, images = self._meter, None, len(batch.images)
            with off_the_clock(trainer), trainer.precision_plugin.val_step_context():
                answer = meter_of_answer(cast(Algorithm, pl_module), batch.images)
            figures = (step.peak / 2**20, step.macs / images, answer.macs / images)
            self.figures = dict(zip(NAMES, figures, strict=True))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        """Leave the meter if it is running; it is left once."""
        if self._meter is not None and self._meter.running:
            self._meter.__exit__(None, None, None)

    def state_dict(self) -> dict[str, Any]:
        return self.figures

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.figures = dict(state_dict)


class Meter(TorchDispatchMode):
    """Count multiply-adds, and follow how much memory the tensors made in the meantime take up.

    Multiply-adds are those of matrix products and convolutions, forward and backward; work that grows with the number
    of units alone, such as activation functions, is not counted, and neither are solvers of linear equations. Memory is
    that of storages which an operation has made and which are still in use, each counted once, whatever shares it; what
    an operation uses within itself is not seen.

    Attributes:
        macs: multiply-adds so far.
        alive, peak: bytes in use, and the most that there were.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs, self.alive, self.peak = 0.0, 0, 0
        self.running = False
        self._followed: set[int] = set()  # ids of storages in use

    def __enter__(self) -> "Meter":
        self.running = True
        return cast(Meter, super().__enter__())  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self.running = False
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if formula := flop_registry.get(getattr(func, "_overloadpacket", func)):
            self.macs += formula(*args, **kwargs, out_val=made) / 2
        known = self._followed | {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(made):
            if id(storage) not in known:
                self._follow(storage)
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._followed.add(id(storage))
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, id(storage), size).atexit = False

    def _forget(self, number: int, size: int) -> None:
        self._followed.remove(number)
        self.alive -= size


def _storages(nested: Any) -> list[torch.UntypedStorage]:
    """The memory of all dense tensors in nested lists and dicts; zeros that stand for no derivative have none."""
    tensors = [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
    return [tensor.untyped_storage() for tensor in tensors if not tensor._is_zerotensor()]


@torch.no_grad()
def meter_of_answer(algorithm: Algorithm, images: Tensor) -> Meter:
    """Meter an answer to `images` (B, C, H, W) as in an evaluation; algorithm and generators stay as they are."""
    devices = [images.device] if images.device.type == "cuda" else []
    with evaluating(algorithm), torch.random.fork_rng(devices), Meter() as meter:
        algorithm.answer(images)
    return meter

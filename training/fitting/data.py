"""Lightning's data module of the train and validation requests; each process gets the requests of its users."""

from lightning.pytorch import LightningDataModule

from training.requests.batches import RequestDataset, RequestLoader, in_order, shuffled


class RequestData(LightningDataModule):
    """The loaders save their position in the epoch in Lightning's checkpoints (RequestLoader.state_dict)."""

    def __init__(self, train: RequestDataset, validation: RequestDataset, batch_requests: int, seed: int) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_requests, self.seed = batch_requests, seed

    def train_dataloader(self) -> RequestLoader:
        """Batches shuffled by the seed, in another order every epoch."""
        return shuffled(self.train, self.batch_requests, self.seed, *self._place())

    def val_dataloader(self) -> RequestLoader | list[RequestLoader]:
        """Batches in the order of the requests; no loader if the validation part is empty."""
        return in_order(self.validation, self.batch_requests, *self._place()) if len(self.validation) else []

    def steps_an_epoch(self, num_processes: int) -> int:
        """Steps of one epoch. Lightning's estimated_stepping_batches gives the same, but drops the loaders' state."""
        return -(-self.train.share(0, num_processes).largest // self.batch_requests)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

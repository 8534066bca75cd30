"""The requests to train and to validate on, as Lightning asks for them: each process gets its share of every batch."""

from lightning.pytorch import LightningDataModule

from training.requests.batches import RequestDataset, RequestLoader, in_order, shuffled


class RequestData(LightningDataModule):
    """Loaders whose place in the epoch Lightning keeps in its checkpoints (RequestLoader.state_dict)."""

    def __init__(self, train: RequestDataset, validation: RequestDataset, batch_requests: int, seed: int) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_requests, self.seed = batch_requests, seed

    def train_dataloader(self) -> RequestLoader:
        """Shuffled anew in every epoch, by the seed."""
        return shuffled(self.train, self.batch_requests, self.seed, *self._place())

    def val_dataloader(self) -> RequestLoader | list[RequestLoader]:
        """In order; none where there is nothing to validate on."""
        return in_order(self.validation, self.batch_requests, *self._place()) if len(self.validation) else []

    def steps_an_epoch(self, num_processes: int) -> int:
        """Batches of an epoch; what estimated_stepping_batches says, without dropping the loaders' state."""
        return -(-len(self.train) // (self.batch_requests * num_processes))

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

"""Models that FSDP2 (``torch.distributed.fsdp.fully_shard``) has sharded over ranks."""

"""LoRA, QLoRA, DoRA, adapters and full finetuning of open-weight LLMs."""

__all__: list[str] = []

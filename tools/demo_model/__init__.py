"""The small Llama that ships inside llm_cli: corpus, tokenizer, training and card (`python -m tools.demo_model`)."""

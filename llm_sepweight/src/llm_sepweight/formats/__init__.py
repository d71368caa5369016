"""One module per kind of file or folder; `llm_sepweight.open` chooses among them."""
